package batchproxy

// budget bounds the calls that repeat others: replicas that fail because there is too much to do must not be given
// more. It is a bucket of tokens, one for each such call.
type budget struct{ tokens float64 }

const (
	// budgetShare of the first calls may be repeated: one in five, so that even where every call fails, replicas get 1.2
	// times what clients send.
	budgetShare = 0.2
	// budgetMax tokens are saved, and there from the start: enough to find one request in a batch of 32 by halves while
	// some other batches are sent again.
	budgetMax = 32
)

func newBudget() budget { return budget{tokens: budgetMax} }

// earn notes a first call.
func (b *budget) earn() { b.tokens = min(b.tokens+budgetShare, budgetMax) }

// take reports whether so many more calls may be made.
func (b *budget) take(calls int) bool {
	if b.tokens < float64(calls) {
		return false
	}
	b.tokens -= float64(calls)
	return true
}
