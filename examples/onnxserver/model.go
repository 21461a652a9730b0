package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"
	"unsafe"

	ort "github.com/yalue/onnxruntime_go"
	"golang.org/x/sync/semaphore"
)

// loadRuntime loads ONNX Runtime's shared library, once for the process; an empty path is what the dynamic linker finds by its name.
func loadRuntime(library string) error {
	if ort.IsInitialized() {
		return nil
	}
	if library == "" {
		library = "libonnxruntime.so.1"
	}
	ort.SetSharedLibraryPath(library)
	// Its own log says of a request that went wrong what the answer to it says.
	if err := ort.InitializeEnvironment(ort.WithLogLevelFatal()); err != nil {
		return fmt.Errorf("ONNX Runtime: %w (--ort.library or FLYBALL_ORT_LIB says where it is)", err)
	}
	return nil
}

// model is an ONNX file, in a session of its own.
type model struct {
	name, file string
	metrics    modelMetrics
	slots      *semaphore.Weighted // one for each run at a time; it hands over in the order of asking

	// Set by load.
	inputs, outputs []port
	session         *ort.DynamicAdvancedSession
}

// load reads the file. What it returns are the names of outputs that are left out, since they are no tensors.
func (m *model) load(threads int) (leftOut []string, err error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	if err := errors.Join(options.SetIntraOpNumThreads(threads), options.SetInterOpNumThreads(1)); err != nil {
		return nil, fmt.Errorf("threads: %w", err)
	}
	inputs, outputs, err := inspect(m.file)
	if err != nil {
		return nil, err
	}
	var inputNames, outputNames []string
	for _, info := range inputs {
		p, err := newPort(info)
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", info.Name, err)
		}
		m.inputs, inputNames = append(m.inputs, p), append(inputNames, p.name)
	}
	for _, info := range outputs {
		p, err := newPort(info)
		if err != nil {
			leftOut = append(leftOut, fmt.Sprintf("%q: %v", info.Name, err))
			continue
		}
		m.outputs, outputNames = append(m.outputs, p), append(outputNames, p.name)
	}
	switch {
	case len(m.inputs) == 0:
		return nil, errors.New("the model has no inputs")
	case len(m.outputs) == 0:
		return nil, fmt.Errorf("the model has no output that can be served: %s", strings.Join(leftOut, ", "))
	}
	m.session, err = ort.NewDynamicAdvancedSession(m.file, inputNames, outputNames, options)
	return leftOut, err
}

// inspect asks what goes in and comes out, of a session that is made ready for nothing else, which takes a fraction of the time.
func inspect(file string) (inputs, outputs []ort.InputOutputInfo, err error) {
	options, err := ort.NewSessionOptions()
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, options.Destroy()) }()
	err = errors.Join(
		options.SetGraphOptimizationLevel(ort.GraphOptimizationLevelDisableAll),
		options.AddSessionConfigEntry("session.disable_prepacking", "1"))
	if err != nil {
		return nil, nil, err
	}
	return ort.GetInputOutputInfoWithOptions(file, options)
}

func newPort(info ort.InputOutputInfo) (port, error) {
	if info.OrtValueType != ort.ONNXTypeTensor {
		return port{}, fmt.Errorf("is no tensor but of type %s", info.OrtValueType)
	}
	p := port{name: info.Name, dims: info.Dimensions}
	switch info.DataType {
	case ort.TensorElementDataTypeBool:
		p.datatype = typeBool
	case ort.TensorElementDataTypeInt8:
		p.datatype = typeInt8
	case ort.TensorElementDataTypeInt16:
		p.datatype = typeInt16
	case ort.TensorElementDataTypeInt32:
		p.datatype = typeInt32
	case ort.TensorElementDataTypeInt64:
		p.datatype = typeInt64
	case ort.TensorElementDataTypeUint8:
		p.datatype = typeUint8
	case ort.TensorElementDataTypeUint16:
		p.datatype = typeUint16
	case ort.TensorElementDataTypeUint32:
		p.datatype = typeUint32
	case ort.TensorElementDataTypeUint64:
		p.datatype = typeUint64
	case ort.TensorElementDataTypeFloat:
		p.datatype = typeFloat32
	case ort.TensorElementDataTypeDouble:
		p.datatype = typeFloat64
	default:
		return port{}, fmt.Errorf("tensors of %s are not served", info.DataType)
	}
	if len(p.dims) == 0 {
		return port{}, errors.New("scalars are not served")
	}
	return p, nil
}

func (d datatype) onnx() ort.TensorElementDataType {
	switch d {
	case typeBool:
		return ort.TensorElementDataTypeBool
	case typeInt8:
		return ort.TensorElementDataTypeInt8
	case typeInt16:
		return ort.TensorElementDataTypeInt16
	case typeInt32:
		return ort.TensorElementDataTypeInt32
	case typeInt64:
		return ort.TensorElementDataTypeInt64
	case typeUint8:
		return ort.TensorElementDataTypeUint8
	case typeUint16:
		return ort.TensorElementDataTypeUint16
	case typeUint32:
		return ort.TensorElementDataTypeUint32
	case typeUint64:
		return ort.TensorElementDataTypeUint64
	case typeFloat32:
		return ort.TensorElementDataTypeFloat
	default:
		return ort.TensorElementDataTypeDouble
	}
}

func (m *model) isLoading() error {
	return &fault{code: http.StatusServiceUnavailable, text: fmt.Sprintf("model %q is loading: try again soon", m.name)}
}

// run runs one batch, of rows rows, and gives the outputs. A ctx that is done while the batch waits for its turn takes it out of
// the queue, and the error is ctx's; once the run has begun it is not broken off.
func (m *model) run(ctx context.Context, rows int64, inputs []tensor) ([]tensor, error) {
	m.metrics.waiting.Inc()
	err := m.slots.Acquire(ctx, 1)
	m.metrics.waiting.Dec()
	if err != nil {
		return nil, err
	}
	defer m.slots.Release(1)
	m.metrics.running.Inc()
	defer m.metrics.running.Dec()
	m.metrics.batchSize.Observe(float64(rows))
	start := time.Now()
	defer func() { m.metrics.busy.Add(time.Since(start).Seconds()) }()

	outputs, err := m.compute(inputs)
	if err != nil {
		return nil, err
	}
	m.metrics.rows.Add(float64(rows))
	return outputs, nil
}

func (m *model) compute(inputs []tensor) ([]tensor, error) {
	var pinner runtime.Pinner // ONNX Runtime keeps the address of each input's elements while it runs
	defer pinner.Unpin()
	in := make([]ort.Value, 0, len(inputs))
	defer func() {
		for _, v := range in {
			_ = v.Destroy() // of these it has no errors
		}
	}()
	for _, t := range inputs {
		data := t.data
		if uintptr(unsafe.Pointer(&data[0]))%uintptr(t.datatype.size()) != 0 {
			return nil, fmt.Errorf("input %q: its elements are not aligned", t.name)
		}
		pinner.Pin(&data[0])
		v, err := ort.NewCustomDataTensor(ort.NewShape(t.shape...), data, t.datatype.onnx())
		if err != nil {
			return nil, fmt.Errorf("input %q: %w", t.name, err)
		}
		in = append(in, v)
	}
	out := make([]ort.Value, len(m.outputs)) // nil: made by the run, by the shape that comes out
	defer func() {
		for _, v := range out {
			if v != nil {
				_ = v.Destroy()
			}
		}
	}()
	if err := m.session.Run(in, out); err != nil {
		return nil, runFault(m.name, err)
	}
	outputs := make([]tensor, len(out))
	for i, v := range out {
		data, err := elementsOf(v)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", m.outputs[i].name, err)
		}
		outputs[i] = tensor{name: m.outputs[i].name, datatype: m.outputs[i].datatype, shape: v.GetShape(), data: data}
	}
	return outputs, nil
}

// runFault is what a run that went wrong is answered with. Names, types and shapes have been checked, so that what is left is
// what the model makes of the values, such as an index beyond the end: the sender's, unless memory ran out.
func runFault(model string, err error) error {
	text := err.Error()
	if strings.Contains(text, "allocat") || strings.Contains(text, "bad_alloc") {
		return fmt.Errorf("run model %q: %w", model, err)
	}
	if _, message, ok := strings.Cut(text, "Status Message: "); ok { // what comes before it names the operator
		text = message
	}
	return badRequest("model %q does not take this input: %s", model, short(strings.TrimSpace(text)))
}

// elementsOf are the elements of an output, which lie in Go's memory and live on after the value is destroyed.
func elementsOf(v ort.Value) ([]byte, error) {
	switch t := v.(type) {
	case *ort.Tensor[bool]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[int8]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[int16]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[int32]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[int64]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[uint8]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[uint16]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[uint32]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[uint64]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[float32]:
		return bytesOf(t.GetData()), nil
	case *ort.Tensor[float64]:
		return bytesOf(t.GetData()), nil
	default:
		return nil, fmt.Errorf("is a %T", v)
	}
}

// bytesOf is the memory of a slice: the elements as the protocol sends them, on a little-endian machine, which all are that ONNX
// Runtime is released for.
func bytesOf[T any](elements []T) []byte {
	if len(elements) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&elements[0])), len(elements)*int(unsafe.Sizeof(elements[0])))
}

// close ends the session; no run may be in progress.
func (m *model) close() error {
	if m.session == nil {
		return nil
	}
	return m.session.Destroy()
}
