package model_test

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestPages has every page be one that a server could have written, and named with its source.
func TestPages(t *testing.T) {
	sources, err := os.ReadFile("testdata/SOURCES.md")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("testdata/pages/*.prom")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages: ", err)
	}
	for _, page := range pages {
		name := filepath.Base(page)
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(sources), "\n| "+strings.TrimSuffix(name, ".prom")+" |") {
				t.Error("SOURCES.md does not say where it is from")
			}
			if head, _, _ := strings.Cut(string(b), "\n"); !strings.HasPrefix(head, "# ") || strings.HasPrefix(head, "# HELP") || strings.HasPrefix(head, "# TYPE") {
				t.Errorf("its first line is %q, want a comment that says where it is from", head)
			}
			parser := expfmt.NewTextParser(model.UTF8Validation)
			families, err := parser.TextToMetricFamilies(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				for _, m := range family.GetMetric() {
					if err := sound(m.GetHistogram()); err != nil {
						t.Errorf("%s%v: %v", family.GetName(), m.GetLabel(), err)
					}
				}
			}
		})
	}
}

// sound says whether the buckets of a histogram agree with each other and with its count and sum.
func sound(h *dto.Histogram) error {
	if h == nil {
		return nil
	}
	buckets := h.GetBucket()
	if len(buckets) == 0 || !math.IsInf(buckets[len(buckets)-1].GetUpperBound(), 1) {
		return fmt.Errorf("%d buckets, and the last is not +Inf", len(buckets))
	}
	var last uint64
	bound := math.Inf(-1)
	least, largest := 0.0, 0.0 // that the sum can be
	for _, b := range buckets {
		if b.GetCumulativeCount() < last || b.GetUpperBound() <= bound {
			return fmt.Errorf("bucket %g of %d follows %g of %d", b.GetUpperBound(), b.GetCumulativeCount(), bound, last)
		}
		if n := float64(b.GetCumulativeCount() - last); n > 0 {
			least += n * max(bound, 0)
			largest += n * b.GetUpperBound()
		}
		last, bound = b.GetCumulativeCount(), b.GetUpperBound()
	}
	if last != h.GetSampleCount() {
		return fmt.Errorf("a count of %d, and %d in the buckets", h.GetSampleCount(), last)
	}
	if sum := h.GetSampleSum(); sum < least*(1-1e-9) || sum > largest*(1+1e-9) {
		return fmt.Errorf("a sum of %g, and the buckets allow %g to %g", sum, least, largest)
	}
	return nil
}
