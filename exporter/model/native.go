package model

import (
	"math"
	"time"

	dto "github.com/prometheus/client_model/go"
	native "github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/textparse"
)

// takeNative takes a native histogram. Its classic buckets, sum and count come as series of their own.
func (r *reading) takeNative(p textparse.Parser) error {
	text, _, whole, floats := p.Histogram()
	if floats == nil && whole != nil {
		floats = whole.ToFloat(nil)
	}
	if floats == nil || floats.UsesCustomBuckets() {
		return nil
	}
	raw := string(nameIn(text))
	n := r.names[raw]
	if n == nil {
		n = r.newName(raw)
	}
	if n.page != r.page {
		if err := r.meet(n); err != nil {
			return err
		}
	}
	for _, u := range n.uses {
		src := &r.table.sources[u.source]
		if u.part != quantile || fields[src.at].kind != histogram || src.as != same || src.factor != newFactor(1) {
			continue
		}
		p.Labels(&r.ls)
		if !src.matches(r.ls) {
			continue
		}
		if r.taken++; r.taken > r.config.MaxSeries {
			return r.tooMany()
		}
		v := r.valueOf(u.source, src)
		v.begin(r)
		v.natives++
		if v.native == nil {
			v.native = floats.Copy()
			continue
		}
		sum, _, _, err := v.native.Add(floats)
		if err != nil {
			v.natives = 0 // they cannot be added, so there is none of all
			continue
		}
		v.native = sum
	}
	return nil
}

// wholeNative reports whether the native histogram is of all that the value counts.
func (v *value) wholeNative() bool { return v.native != nil && v.natives > 0 && v.natives == v.counts }

const (
	peakSlot  = 10 * time.Second
	peakSlots = 6
)

// peak is the highest bound of a slot of time.
type peak struct {
	slot  int64 // number of the slot; 0 for none
	bound float64
}

// highest is the upper bound of the highest bucket of the native histogram that grew in the last minute: no request took longer. It is
// asked once a page. Where nothing is known to have grown there is none: a first page does not say when.
func (v *value) highest(now time.Time) (float64, bool) {
	slot := now.Unix()/int64(peakSlot/time.Second) + 1
	if bound, ok := grown(v.nativeBefore, v.native); ok && v.wholeNative() {
		p := &v.peaks[slot%peakSlots]
		if p.slot != slot {
			*p = peak{slot: slot}
		}
		p.bound = max(p.bound, bound)
	}
	highest, ok := 0.0, false
	for _, p := range v.peaks {
		if p.slot > slot-peakSlots && p.slot <= slot {
			highest, ok = max(highest, p.bound), true
		}
	}
	return highest, ok
}

// grown is the upper bound of the highest bucket that has more in now than in before; not ok where none has, or the server has begun
// anew between the two.
func grown(before, now *native.FloatHistogram) (float64, bool) {
	if before == nil || now == nil || now.DetectReset(before) {
		return 0, false
	}
	more, _, _, err := now.Copy().Sub(before)
	if err != nil {
		return 0, false
	}
	for i := more.PositiveReverseBucketIterator(); i.Next(); {
		if b := i.At(); b.Count > 0 {
			return b.Upper, !math.IsInf(b.Upper, 1)
		}
	}
	return more.ZeroThreshold, more.ZeroCount > 0
}

// addNative adds to a classic histogram the native one that stands for the same observations.
func (v *value) addNative(h *dto.Histogram) {
	f := v.native
	if !v.wholeNative() || !whollyCounted(f.ZeroCount) {
		return
	}
	schema, zero := f.Schema, uint64(f.ZeroCount)
	positive, negative := spansOf(f.PositiveSpans), spansOf(f.NegativeSpans)
	up, ok := deltasOf(f.PositiveBuckets)
	down, alsoOK := deltasOf(f.NegativeBuckets)
	if !ok || !alsoOK {
		return
	}
	h.Schema, h.ZeroThreshold, h.ZeroCount = &schema, &f.ZeroThreshold, &zero
	h.PositiveSpan, h.PositiveDelta, h.NegativeSpan, h.NegativeDelta = positive, up, negative, down
	if len(positive) == 0 && len(negative) == 0 { // as client_golang says that a histogram without observations is a native one
		var none int32
		var length uint32
		h.PositiveSpan = []*dto.BucketSpan{{Offset: &none, Length: &length}}
	}
}

func spansOf(spans []native.Span) []*dto.BucketSpan {
	var all []*dto.BucketSpan
	for _, s := range spans {
		all = append(all, &dto.BucketSpan{Offset: &s.Offset, Length: &s.Length})
	}
	return all
}

// deltasOf are the differences of one bucket to the next.
func deltasOf(buckets []float64) (deltas []int64, ok bool) {
	var before int64
	for _, n := range buckets {
		if !whollyCounted(n) {
			return nil, false
		}
		deltas = append(deltas, int64(n)-before)
		before = int64(n)
	}
	return deltas, true
}
