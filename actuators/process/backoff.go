package process

import "time"

// steady is how long a replica has to have been ready for its earlier failures to be forgotten, unless its longest pause
// is shorter: a replica that serves for a minute at a time is worth starting without much of a pause.
const steady = time.Minute

// streak counts the failures in a row of one replica.
type streak struct {
	min, max time.Duration
	failures int
}

// next counts a failure after the replica had been ready for a while (0 for never), and returns the pause before it is
// started again. The pause doubles with each failure up to max; chance, from 0 up to 1, picks it from the upper half of
// that, so that replicas that failed together are not all started together again. It is never below min nor above max.
func (s *streak) next(readyFor time.Duration, chance float64) time.Duration {
	if readyFor >= min(s.max, steady) {
		s.failures = 0
	}
	s.failures++
	longest := s.max
	// min << failures, where that is less than max. It stops long before min could overflow.
	for pause, n := s.min, 0; pause <= s.max/2; pause *= 2 {
		if n++; n == s.failures {
			longest = 2 * pause
			break
		}
	}
	return max(s.min, longest/2+time.Duration(chance*float64(longest-longest/2)))
}
