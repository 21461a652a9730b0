package gpu

import (
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// fullDevices returns n GPUs of which all is known.
func fullDevices(tb testing.TB, n int) []Device {
	tb.Helper()
	text, err := os.ReadFile("testdata/device.json")
	if err != nil {
		tb.Fatal(err)
	}
	devices := make([]Device, n)
	for i := range devices {
		if err := json.Unmarshal(text, &devices[i]); err != nil {
			tb.Fatal(err)
		}
		devices[i].Index, devices[i].UUID = i, "GPU-"+strconv.Itoa(i)
	}
	return devices
}

// BenchmarkPublish is what one snapshot of 8 GPUs costs, once, and what every scrape of it does.
func BenchmarkPublish(b *testing.B) {
	rep := &reply{Driver: "570.86.15", CUDA: "12.8", Devices: fullDevices(b, 8)}
	metrics, err := publish(rep, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("make", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := publish(rep, nil); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(len(metrics)), "series")
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		var out dto.Metric
		for b.Loop() {
			for _, m := range metrics {
				if err := m.Write(&out); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("gather", func(b *testing.B) {
		registry := prometheus.NewRegistry()
		registry.MustRegister(unchecked(metrics))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := registry.Gather(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
