package eval_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flyball/forecast"
	"flyball/forecast/eval"
)

// TestDetect has anomalies put into a daily pattern found at their time, with one alert each, and nothing else.
func TestDetect(t *testing.T) {
	s := noisy(3, 20)
	const day = 144
	s.Values[12*day+5] += 200
	for i := 14 * day; i < 14*day+4; i++ {
		s.Values[i] = nan
	}
	for i := 16 * day; i < 17*day; i++ {
		s.Values[i] = 42
	}
	for i := 18*day + 70; i < len(s.Values); i++ {
		s.Values[i] += 400
	}
	f, err := eval.NewBaseline("seasonal_day", s.Step, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := eval.Detect(s, f, forecast.DetectorOptions{Sensitivity: 6})
	if err != nil {
		t.Fatal(err)
	}
	type alert struct {
		Index int
		Kind  forecast.Kind
	}
	var alerts []alert
	shifts := 0
	for i, v := range found {
		if v.Alert && i > 10*day {
			alerts = append(alerts, alert{i, v.Kind})
		}
		if v.Kind == forecast.LevelShift && i > 18*day {
			shifts++
		}
		if i > 0 && !v.Time.Equal(s.Time(i)) {
			t.Errorf("the time at %d is %s", i, v.Time)
		}
	}
	for _, want := range []alert{{12*day + 5, forecast.Spike}, {14*day + 2, forecast.Missing}, {18*day + 70, forecast.Spike}} {
		if !slices.Contains(alerts, want) {
			t.Errorf("no alert %v in %v", want, alerts)
		}
	}
	if v := found[13*day+5]; v.Kind != "" {
		t.Errorf("a day after a spike there is a %s: it was learned", v.Kind)
	}
	flat := false
	for _, v := range found[16*day : 17*day] {
		flat = flat || v.Kind == forecast.Flatline
	}
	if !flat || shifts == 0 {
		t.Errorf("a flatline was found: %t, level shifts: %d", flat, shifts)
	}
	if _, err := eval.Detect(s, f, forecast.DetectorOptions{Sensitivity: -1}); err == nil {
		t.Error("no error for a sensitivity below 0")
	}
}

// TestDetectIsCausal has what is found of a value be the same whatever comes after it.
func TestDetectIsCausal(t *testing.T) {
	detect := func(s eval.Series) []eval.Detected {
		f, err := eval.NewBaseline("seasonal_day", s.Step, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		found, err := eval.Detect(s, f, forecast.DetectorOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	s := noisy(4, 10)
	s.Values[1000] = 1000
	all := detect(s)
	s.Values = s.Values[:1001]
	part := detect(s)
	if diff := cmp.Diff(part, all[:1001], sameFloats()); diff != "" {
		t.Error(diff)
	}
	if all[1000].Kind != forecast.Spike {
		t.Errorf("a spike is %+v", all[1000])
	}
	if all[0].Time != time.Unix(0, 0).UTC() || !all[0].Alert && all[0].Kind != "" {
		t.Errorf("the first is %+v", all[0])
	}
}
