package rules

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// placed are placements, each by its capacity, price, bounds, size and whether it is interruptible.
func placed(of ...Placement) []Placement { return of }

func variant(name string, capacity int, price float64, least, most, from int, interruptible bool) Placement {
	return Placement{
		Name: name, From: from, Capacity: capacity, PriceUSDPerHour: price, known: !math.IsNaN(price),
		variant: &Variant{Name: name, Capacity: capacity, Min: least, Max: most, Interruptible: interruptible},
	}
}

func sizes(all []Placement) string {
	var words []string
	for _, p := range all {
		words = append(words, fmt.Sprintf("%s %d", p.Name, p.To))
	}
	return strings.Join(words, ", ")
}

func TestPlace(t *testing.T) {
	spot := func(from int) Placement { return variant("spot", 40, 0.32, 0, 20, from, true) }
	dear := func(from int) Placement { return variant("dear", 75, 1.21, 1, 6, from, false) }
	for _, tt := range []struct {
		name  string
		all   []Placement
		units int
		share float64
		want  string
	}{
		{"the cheapest for its capacity first", placed(spot(0), dear(1)), 75 + 120, 1, "spot 3, dear 1"},
		{"then the dearer", placed(spot(0), dear(1)), 20*40 + 2*75, 1, "spot 20, dear 2"},
		{"all there is", placed(spot(0), dear(1)), 1_000_000, 1, "spot 20, dear 6"},
		{"the dearest drained first", placed(spot(5), dear(4)), 5*40 + 2*75, 1, "spot 5, dear 2"},
		{"no more than is spare", placed(spot(5), dear(4)), 5*40 + 4*75 - 74, 1, "spot 4, dear 4"},
		{"down to min", placed(spot(5), dear(4)), 0, 1, "spot 0, dear 1"},
		{"no more interruptible than its share", placed(spot(0), dear(1)), 400, 0.5, "spot 5, dear 3"},
		{"beyond its share it goes first", placed(spot(10), dear(1)), 300, 0.5, "spot 6, dear 1"},
		{"nothing moves that need not", placed(spot(0), dear(4)), 300, 1, "spot 0, dear 4"},
		{"the last replica is the one that costs least", placed(variant("big", 100, 1, 0, 9, 0, false), variant("small", 10, 0.2, 0, 9, 0, false)), 110, 1, "big 1, small 1"},
		{"several small ones where that is cheaper than a big one", placed(variant("big", 100, 1, 0, 9, 0, false), variant("small", 10, 0.2, 0, 9, 0, false)), 30, 1, "big 0, small 3"},
		{"one whose price is not known comes last", placed(variant("unknown", 100, math.NaN(), 0, 9, 0, false), dear(1)), 300, 1, "unknown 0, dear 4"},
		{"and goes first", placed(variant("unknown", 75, math.NaN(), 0, 9, 2, false), dear(2)), 225, 1, "unknown 1, dear 2"},
		{"outside of its bounds", placed(spot(30), dear(0)), 0, 1, "spot 0, dear 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			place(tt.all, tt.units, tt.share)
			if got := sizes(tt.all); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// TestPlaceProperties: within the bounds, enough where there can be enough, no variant that shrinks while another grows but
// for the interruptible share, and never more of that than it may be.
func TestPlaceProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		share := []float64{1, 0.5, 0, rng.Float64()}[rng.IntN(4)]
		var all []Placement
		most, mostFirm := 0, 0
		for i := range 1 + rng.IntN(4) {
			least := rng.IntN(3)
			p := variant(fmt.Sprint(i), 1+rng.IntN(80), float64(rng.IntN(100))/10, least, least+1+rng.IntN(20), 0, rng.IntN(2) == 0)
			p.From = least + rng.IntN(p.variant.Max-least+1)
			most += p.variant.Max * p.Capacity
			if !p.interruptible() {
				mostFirm += p.variant.Max * p.Capacity
			}
			all = append(all, p)
		}
		units := rng.IntN(most + 50)
		place(all, units, share)
		total, spot, grew, shrank, minSpot := 0, 0, false, false, 0
		for _, p := range all {
			if p.To < p.variant.Min || p.To > p.variant.Max {
				t.Fatalf("%s: outside of %d to %d", sizes(all), p.variant.Min, p.variant.Max)
			}
			total += p.To * p.Capacity
			grew, shrank = grew || p.To > p.From, shrank || p.To < p.From
			if p.interruptible() {
				spot += p.To * p.Capacity
				minSpot += max(p.variant.Min, p.From) * p.Capacity
			}
		}
		if total < min(units, mostFirm) || share == 1 && total < min(units, most) {
			t.Fatalf("%s: %d of %d, share %g, firm %d, most %d, %+v", sizes(all), total, units, share, mostFirm, most, all)
		}
		if grew && shrank {
			t.Fatalf("%s: one grew and another shrank", sizes(all))
		}
		if limit := share * float64(units); share < 1 && float64(spot) > max(limit+1e-6, float64(minSpot)) {
			t.Fatalf("%s: %d interruptible of %d, share %g", sizes(all), spot, units, share)
		}
	}
}

func TestAffordable(t *testing.T) {
	all := placed(variant("spot", 40, 0.32, 0, 20, 3, true), variant("dear", 75, 1.21, 1, 6, 4, false))
	for usd, want := range map[float64]int{0: 0, 1.21: 75, 1.53: 115, 7.61: 75 + 800, 100: 1000} {
		if got := affordable(all, usd, 1, 1000); got != want {
			t.Errorf("%g USD an hour buy %d, want %d", usd, got, want)
		}
	}
	if diff := cmp.Diff("spot 0, dear 0", sizes(all)); diff != "" {
		t.Errorf("the placements were changed: %s", diff)
	}
}
