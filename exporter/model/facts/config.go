package facts

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// maxConfig is the longest config.json that is read; those of the largest models, with a list of layers, have 100 kB.
const maxConfig = 4 << 20

// errNotConfig is wrapped by the error of a config.json that is of something else.
var errNotConfig = errors.New("not a config.json of transformers: expected architectures, model_type or torch_dtype")

// config is what is read of a config.json as Hugging Face's transformers writes it.
type config struct {
	Architectures []string  `json:"architectures"`
	ModelType     string    `json:"model_type"`
	TorchDtype    dtype     `json:"torch_dtype"` // until transformers 4
	Dtype         dtype     `json:"dtype"`       // since 5
	Text          *config   `json:"text_config"` // of a model that also takes images
	Quantization  *quantity `json:"quantization_config"`
}

// dtype is a type of numbers; transformers has written an object there too, which says nothing in one word.
type dtype string

// UnmarshalJSON takes a text and leaves out anything else.
func (d *dtype) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		*d = dtype(strings.TrimPrefix(s, "torch."))
	}
	return nil
}

// quantity is how weights are quantised.
type quantity struct {
	Method string  `json:"quant_method"`
	Bits   float64 `json:"bits"`
	In4    bool    `json:"load_in_4bit"`
	In8    bool    `json:"load_in_8bit"`
}

// name is the method and the bits, such as gptq-4bit.
func (q *quantity) name() string {
	switch {
	case q == nil || q.Method == "":
		return ""
	case q.Bits >= 1 && q.Bits <= 64:
		return fmt.Sprintf("%s-%gbit", q.Method, q.Bits)
	case q.In4:
		return q.Method + "-4bit"
	case q.In8:
		return q.Method + "-8bit"
	}
	return q.Method
}

// readConfig reads a config.json.
func readConfig(file string) (config, error) {
	b, err := readSmall(file, maxConfig)
	if err != nil {
		return config{}, fmt.Errorf("%s: %w", file, err)
	}
	c, err := parseConfig(b)
	if err != nil {
		return config{}, fmt.Errorf("%s: %w", file, err)
	}
	return c, nil
}

func parseConfig(b []byte) (config, error) {
	var c config
	if err := json.Unmarshal(b, &c); err != nil {
		if !json.Valid(b) {
			return config{}, fmt.Errorf("expected the JSON of a config.json: %w", err)
		}
		return config{}, fmt.Errorf("%w: %w", errNotConfig, err)
	}
	if len(c.Architectures) == 0 && c.ModelType == "" && c.TorchDtype == "" && c.Dtype == "" {
		return config{}, errNotConfig
	}
	return c, nil
}

// facts adds what the config says. What most of the weights are is known from themselves; of quantised ones the config knows
// better how, and where there are no weights it is all that is known.
func (c config) facts(f Facts) Facts {
	if q := c.quantization(); q != "" {
		f.Precision = q
	}
	f.Precision = first(f.Precision, string(c.dtype()))
	architecture := c.ModelType
	if len(c.Architectures) > 0 {
		architecture = c.Architectures[0]
	}
	f.Architecture = first(f.Architecture, architecture)
	return f
}

func (c config) quantization() string {
	if q := c.Quantization.name(); q != "" || c.Text == nil {
		return q
	}
	return c.Text.Quantization.name()
}

func (c config) dtype() dtype {
	if d := first(string(c.Dtype), string(c.TorchDtype)); d != "" || c.Text == nil {
		return dtype(d)
	}
	return dtype(first(string(c.Text.Dtype), string(c.Text.TorchDtype)))
}
