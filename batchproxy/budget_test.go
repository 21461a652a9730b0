package batchproxy

import "testing"

func TestBudget(t *testing.T) {
	b := newBudget()
	count := func(calls int) (repeats int) {
		for range calls {
			b.earn()
			if b.take(1) {
				repeats++
			}
		}
		return repeats
	}
	if n := count(40); n != 39 { // 32 saved, and a fifth of them and of those it earns, rounded down
		t.Errorf("%d of the first 40 calls were repeated, want 39", n)
	}
	if n := count(1000); n < 199 || n > 200 {
		t.Errorf("%d of the next 1000 calls were repeated, want a fifth", n)
	}
	for range 10000 {
		b.earn()
	}
	if !b.take(budgetMax) || b.take(1) {
		t.Errorf("quiet times save %d more than %d", int(b.tokens), budgetMax)
	}
}
