package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// inLength is the width of an element that has its own length before it: 4 bytes, little endian.
const inLength = -1

// widthOf is the bytes of one element of a datatype in binary, inLength for BYTES and 0 for one that is not known.
func widthOf(datatype string) int {
	switch datatype {
	case "BOOL", "INT8", "UINT8":
		return 1
	case "INT16", "UINT16", "FP16", "BF16":
		return 2
	case "INT32", "UINT32", "FP32":
		return 4
	case "INT64", "UINT64", "FP64":
		return 8
	case "BYTES":
		return inLength
	}
	return 0
}

// onlyBinary reports whether JSON has no form for the datatype.
func onlyBinary(datatype string) bool { return datatype == "FP16" || datatype == "BF16" }

// checkBinary reports whether data is exactly as many elements of the datatype as the shape says.
func checkBinary(data []byte, datatype string, shape []int) error {
	width := widthOf(datatype)
	if width == 0 {
		return fmt.Errorf("%q has no binary form: BOOL, INT8 to INT64, UINT8 to UINT64, FP16, BF16, FP32, FP64 or BYTES is wanted", datatype)
	}
	elements := product(shape)
	if width != inLength {
		if len(data) != elements*width {
			return fmt.Errorf("%d bytes, the shape %s of %s wants %d", len(data), text(shape), datatype, elements*width)
		}
		return nil
	}
	end, err := walkBytes(data, elements)
	if err != nil {
		return err
	}
	if end != len(data) {
		return fmt.Errorf("%d bytes after the %d elements that the shape %s wants", len(data)-end, elements, text(shape))
	}
	return nil
}

var errShortElement = errors.New("an element's length, 4 bytes before it, goes beyond the tensor's end")

// walkBytes is where so many elements of BYTES end.
func walkBytes(data []byte, elements int) (int, error) {
	at := 0
	for n := range elements {
		if len(data)-at < 4 {
			return 0, fmt.Errorf("ends after %d elements of %d", n, elements)
		}
		length := binary.LittleEndian.Uint32(data[at:])
		if uint64(length) > uint64(len(data)-at-4) {
			return 0, errShortElement
		}
		at += 4 + int(length)
	}
	return at, nil
}

// cutBinary divides the tensor at body[start:end], which was checked, among the requests, whose rows have so many elements.
func cutBinary(body []byte, start, end, each, width int, requests []*Request) ([]span, error) {
	bounds := make([]span, len(requests))
	at := start
	for i, r := range requests {
		stop := at + r.Items*each*width
		if width == inLength {
			n, err := walkBytes(body[at:end], r.Items*each)
			if err != nil {
				return nil, err
			}
			stop = at + n
		}
		bounds[i] = span{at, stop}
		at = stop
	}
	return bounds, nil
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
