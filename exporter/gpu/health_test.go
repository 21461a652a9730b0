package gpu

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestXIDClass(t *testing.T) {
	for class, numbers := range map[string][]uint64{
		classApp:      {13, 31, 43, 45, 69},
		classHardware: {46, 48, 62, 64, 79, 92, 94, 95, 119, 120, 140},
		classNVLink:   {74, 136, 144, 150},
		classInfo:     {0, 63, 106, 154, 999},
	} {
		for _, number := range numbers {
			if got := xidClass(number); got != class {
				t.Errorf("XID %d is of class %s, want %s", number, got, class)
			}
		}
	}
}

func TestXIDCounts(t *testing.T) {
	counts := newXIDCounts()
	at := time.Now()
	counts.add(31, at)
	counts.add(79, at)
	counts.add(79, at.Add(time.Second))
	for number := range uint64(1000) {
		counts.add(1000+number, at)
	}
	if len(counts) != maxXIDs || !slices.IsSortedFunc(counts, func(a, b XID) int { return int(a.Number) - int(b.Number) }) {
		t.Errorf("%d numbers, want %d, in order", len(counts), maxXIDs)
	}
	for _, x := range counts {
		if x.Number == 79 && (x.Count != 2 || !x.Last.Equal(at.Add(time.Second))) || x.Number == 48 && (x.Count != 0 || !x.Last.IsZero()) {
			t.Errorf("%+v", x)
		}
	}
}

func TestJudge(t *testing.T) {
	now := time.Now()
	yes, no, action, none := true, false, 1, 0
	xids := func(number uint64, ago time.Duration) []XID {
		counts := newXIDCounts()
		counts.add(number, now.Add(-ago))
		return counts
	}
	for _, tt := range []struct {
		name string
		d    Device
		want string // reasons, with ! before those that do not hold
	}{
		{"nothing is known", Device{}, "!lost"},
		{"lost", Device{Error: "lost", RowRemapFailure: &yes}, "lost"},
		{"all is well", Device{
			XIDs: newXIDCounts(), RowRemapFailure: &no, RecoveryAction: &none,
			ECC: []ECCErrors{{"corrected", "volatile", 9}, {"uncorrected", "aggregate", 9}, {"uncorrected", "volatile", 0}},
		}, "!lost !xid !ecc_uncorrected !remap_failure !recovery_action"},
		{"all is bad", Device{
			XIDs: xids(79, time.Minute), RowRemapFailure: &yes, RecoveryAction: &action, ECC: []ECCErrors{{"uncorrected", "volatile", 1}},
		}, "!lost xid ecc_uncorrected remap_failure recovery_action"},
		{"an application's XID", Device{XIDs: xids(31, 0)}, "!lost !xid"},
		{"a link's XID", Device{XIDs: xids(74, 0)}, "!lost !xid"},
		{"an old XID", Device{XIDs: xids(79, xidWindow)}, "!lost !xid"},
		{"one that is not quite as old", Device{XIDs: xids(79, xidWindow-1)}, "!lost xid"},
	} {
		var got []string
		for _, j := range judge(&tt.d, now) {
			if j.holds {
				got = append(got, j.reason)
			} else {
				got = append(got, "!"+j.reason)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, strings.Join(got, " "), tt.want)
		}
	}
}
