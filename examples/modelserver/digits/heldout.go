package digits

import (
	_ "embed" // for heldout.bin
	"encoding/binary"
	"fmt"
)

const heldOutMagic = "DIGITSH1"

//go:embed heldout.bin
var heldOutFile []byte

// Image is one handwritten digit with what it shows.
type Image struct {
	// Pixels are the values 0 (paper) to MaxPixel (ink), row by row from the top left.
	Pixels [PixelCount]uint8
	// Label is the digit that a person wrote, 0 to 9.
	Label int
}

// HeldOut returns the 719 images that the training never saw, in a fixed order. The slice is the caller's own. An error
// means that the binary was built from a damaged heldout.bin.
func HeldOut() ([]Image, error) {
	images, err := parseImages(heldOutFile)
	if err != nil {
		return nil, fmt.Errorf("heldout.bin: %w", err)
	}
	return images, nil
}

// Floats returns the pixels as Classify takes them.
func (i Image) Floats() []float32 {
	out := make([]float32, PixelCount)
	for j, p := range i.Pixels {
		out[j] = float32(p)
	}
	return out
}

// parseImages reads what train.py writes: the magic, a count (uint32, little-endian), then for each image its pixels and its
// label, one byte each.
func parseImages(b []byte) ([]Image, error) {
	rest, ok := cutMagic(b, heldOutMagic)
	if !ok || len(rest) < 4 {
		return nil, fmt.Errorf("does not begin with %s and a count", heldOutMagic)
	}
	count := binary.LittleEndian.Uint32(rest)
	rest = rest[4:]
	const size = PixelCount + 1
	if uint64(len(rest)) != uint64(count)*size {
		return nil, fmt.Errorf("%d bytes for %d images: need %d", len(rest), count, uint64(count)*size)
	}
	images := make([]Image, count)
	for i := range images {
		record := rest[i*size : (i+1)*size]
		for _, p := range record[:PixelCount] {
			if p > MaxPixel {
				return nil, fmt.Errorf("image %d has a pixel of %d: need 0 to %d", i, p, MaxPixel)
			}
		}
		if record[PixelCount] >= ClassCount {
			return nil, fmt.Errorf("image %d is labelled %d: need 0 to %d", i, record[PixelCount], ClassCount-1)
		}
		copy(images[i].Pixels[:], record)
		images[i].Label = int(record[PixelCount])
	}
	return images, nil
}
