package digits

import (
	"bytes"
	"encoding/csv"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func load(tb testing.TB) (*Model, []Image) {
	tb.Helper()
	m, err := Load()
	if err != nil {
		tb.Fatal(err)
	}
	images, err := HeldOut()
	if err != nil {
		tb.Fatal(err)
	}
	return m, images
}

func TestAccuracy(t *testing.T) {
	m, images := load(t)
	if len(images) != 719 {
		t.Fatalf("%d held-out images, want 719", len(images))
	}
	right := 0
	for _, image := range images {
		digit, err := m.Classify(image.Floats())
		if err != nil {
			t.Fatal(err)
		}
		if digit.Label == image.Label {
			right++
		}
	}
	accuracy := float64(right) / float64(len(images))
	t.Logf("%d of %d held-out images read right: %.4f", right, len(images), accuracy)
	if accuracy < 0.97 {
		t.Errorf("accuracy %.4f, want 0.97 or more", accuracy)
	}
}

// TestSameAsSklearn compares with what scikit-learn's own predict_proba answered for the same weights and images.
func TestSameAsSklearn(t *testing.T) {
	m, images := load(t)
	f, err := os.Open("testdata/sklearn.csv")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	rows = rows[1:] // the header
	if len(rows) != 64 {
		t.Fatalf("%d rows, want 64", len(rows))
	}
	var worst float64
	for _, row := range rows {
		n, err := strconv.Atoi(row[0])
		if err != nil {
			t.Fatal(err)
		}
		digit, err := m.Classify(images[n].Floats())
		if err != nil {
			t.Fatal(err)
		}
		for class, field := range row[1:] {
			want, err := strconv.ParseFloat(field, 64)
			if err != nil {
				t.Fatal(err)
			}
			diff := math.Abs(float64(digit.Probabilities[class]) - want)
			worst = max(worst, diff)
			if diff > 1e-4 {
				t.Errorf("image %d, class %d: probability %v, sklearn has %v", n, class, digit.Probabilities[class], want)
			}
		}
	}
	t.Logf("largest difference %.2g", worst)
}

func TestProbabilities(t *testing.T) {
	m, images := load(t)
	for i, image := range images {
		digit, err := m.Classify(image.Floats())
		if err != nil {
			t.Fatal(err)
		}
		var sum float64
		for class, p := range digit.Probabilities {
			if p < 0 || p > 1 || p > digit.Probabilities[digit.Label] {
				t.Errorf("image %d, class %d: probability %v beside %v of the label", i, class, p, digit.Probabilities[digit.Label])
			}
			sum += float64(p)
		}
		if math.Abs(sum-1) > 1e-6 {
			t.Errorf("image %d: probabilities add up to %v", i, sum)
		}
	}
}

// TestDeterministic: the bits of an answer depend on the image alone, not on what was classified before it or beside it.
func TestDeterministic(t *testing.T) {
	m, images := load(t)
	alone := make([]Digit, len(images))
	for i, image := range images {
		fresh, err := Load()
		if err != nil {
			t.Fatal(err)
		}
		if alone[i], err = fresh.Classify(image.Floats()); err != nil {
			t.Fatal(err)
		}
	}
	for start := 0; start < len(images); start += 32 {
		batch := images[start:min(start+32, len(images))]
		for i := len(batch) - 1; i >= 0; i-- { // another order than above
			got, err := m.Classify(batch[i].Floats())
			if err != nil {
				t.Fatal(err)
			}
			if got != alone[start+i] {
				t.Errorf("image %d: %v in a batch, %v alone", start+i, got, alone[start+i])
			}
		}
	}
}

func TestClassifyWrongCount(t *testing.T) {
	m, _ := load(t)
	_, err := m.Classify(make([]float32, 63))
	if err == nil || err.Error() != "an image has 64 pixels, got 63" {
		t.Errorf("error %v", err)
	}
}

func TestParseModelFaults(t *testing.T) {
	edit := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(weightsFile)) }
	for _, tt := range []struct {
		name, want string
		file       []byte
	}{
		{name: "empty", file: nil, want: "does not begin with DIGITSW1 and a count"},
		{name: "magic", file: edit(func(b []byte) []byte { b[0] = 'X'; return b }), want: "does not begin with DIGITSW1 and a count"},
		{name: "count", file: edit(func(b []byte) []byte { b[8] = 9; return b }), want: "9 layer sizes: need 2 to 8"},
		{name: "size", file: edit(func(b []byte) []byte { b[16], b[17] = 0, 0; return b }), want: "layer size 1 is 0: need 1 to 512"},
		{name: "inputs", file: edit(func(b []byte) []byte { b[12] = 63; return b }), want: "takes 63 values and gives 10: need 64 and 10"},
		{name: "short", file: weightsFile[:len(weightsFile)-1], want: "biases of layer 2: 39 bytes left: need 40"},
		{name: "long", file: append(bytes.Clone(weightsFile), 0), want: "1 bytes after the last layer"},
		{
			name: "not a number", want: "biases of layer 2: value 9 is NaN",
			file: edit(func(b []byte) []byte { copy(b[len(b)-4:], "\xff\xff\xff\xff"); return b }),
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseModel(tt.file)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

func TestParseImagesFaults(t *testing.T) {
	one := append([]byte(heldOutMagic+"\x01\x00\x00\x00"), make([]byte, PixelCount+1)...)
	edit := func(i int, v byte) []byte { b := bytes.Clone(one); b[i] = v; return b }
	if images, err := parseImages(one); err != nil || !cmp.Equal(images, []Image{{}}) {
		t.Fatalf("one empty image: %v, %v", images, err)
	}
	for _, tt := range []struct {
		name, want string
		file       []byte
	}{
		{name: "magic", file: edit(0, 'X'), want: "does not begin with DIGITSH1 and a count"},
		{name: "count", file: edit(8, 2), want: "65 bytes for 2 images: need 130"},
		{name: "pixel", file: edit(12, 17), want: "image 0 has a pixel of 17: need 0 to 16"},
		{name: "label", file: edit(len(one)-1, 10), want: "image 0 is labelled 10: need 0 to 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseImages(tt.file)
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
		})
	}
}

// FuzzParseModel: a damaged file gives an error or a model that classifies, never a panic.
func FuzzParseModel(f *testing.F) {
	f.Add(weightsFile)
	f.Add([]byte(weightsMagic + "\x02\x00\x00\x00\x40\x00\x00\x00\x0a\x00\x00\x00" + strings.Repeat("\x00", 4*(64*10+10))))
	f.Fuzz(func(t *testing.T, file []byte) {
		m, err := parseModel(file)
		if err != nil {
			return
		}
		if _, err := m.Classify(make([]float32, PixelCount)); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkClassify(b *testing.B) {
	m, images := load(b)
	pixels := make([][]float32, len(images))
	for i, image := range images {
		pixels[i] = image.Floats()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if _, err := m.Classify(pixels[i%len(pixels)]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
