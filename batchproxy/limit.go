package batchproxy

import "math"

// limiter finds how many requests that are not batched a replica should have at once: as many as make it no slower, and some that
// wait there, so that it never runs dry. It is a state machine without a clock, told when a call begins and how it ended.
//
// It is Gradient2 of Netflix's concurrency-limits (Gradient2Limit.java in github.com/Netflix/concurrency-limits, described in
// "Performance Under Load", Netflix TechBlog, March 2018), recomputed for each window of answers:
//
//	gradient = clamp(0.5, 1, tolerance · base / time)
//	limit    = limit·0.8 + (limit·gradient + queue)·0.2
//
// for windows whose calls found at least half of the limit in use. It differs in what the time is compared with. There it is a mean
// over the last 600 answers, which under lasting load becomes that of a replica with a queue, and the limit goes up and up. Here
// base is what a replica takes that has no queue, and is measured: now and then the limit is lowered by steps of 0.7 for some answers each
// (much as BBR of TCP does it to find the time of an empty path). As long as the time falls with the number of requests, they only
// waited for each other, and nothing is lost meanwhile; the first step at which it no longer does is where the queue was empty.
//
// Streams last for long after the piece that counts. Where nearly all that the replica has are past it (calm), none waits there, whatever the
// time: it may be that of longer questions, or of more streams side by side. The limit is then not lowered, and no probe is made: until
// half of the streams have ended, which may take minutes, it would let nobody in.
//
// Where a replica says that it has too much (429, 503), or does not answer in time, the limit is cut to 0.9 of itself, once for all
// calls that began before. What is refused says nothing of the time.
type limiter struct {
	least, most float64
	limit       float64
	round       uint64  // ends with a refusal or a probe: calls that began before say no more
	fast        bool    // nothing has spoken against more yet
	goal        float64 // the limit after the first refusal of those that came without an answer between them
	well        bool    // the last call was answered
	pending     int     // calls that began, and are not answered, refused or forgotten
	skip        int     // answers that are still those of another limit

	window mean    // of answers at the limit
	inUse  int     // the calls that there were when each of the window began, summed up
	behind int     // of these, those that were not answered yet
	recent mean    // of windows, the newer ones weighing more
	base   float64 // seconds of a replica without a queue; 0 before the first were measured

	since, due int     // answers at the limit since the last probe, and after how many the next is
	found      float64 // the limit after the last probe
	was        float64 // base then

	probing bool
	step    float64 // the limit while probing
	take    int     // calls that are still to begin of those that are measured at this step
	out     int     // of these, calls that are under way
	passed  int     // other answers in the meantime
	above   mean    // at the step before
	aboveN  int     // measurements that count in above
	queued  float64 // the lowest step above which there was a queue
	seen    mean    // of those that were measured at this step
	idle    int     // calls at this step that found it half empty

	told float64 // the limit when a change was last told of
}

// mean is one of so many measurements in seconds.
type mean struct {
	seconds, variance float64
	n                 int
}

// add takes a measurement, which weighs no less than the weight.
func (m *mean) add(seconds, weight float64) {
	m.n++
	weight = max(weight, 1/float64(m.n))
	off := seconds - m.seconds
	m.seconds += off * weight
	m.variance = (1 - weight) * (m.variance + weight*off*off)
}

// error is the square of the standard error of the mean, as part of it, where its measurements count as so many.
func (m *mean) error(n int) float64 { return m.variance / (m.seconds * m.seconds * float64(n)) }

const (
	// limitStart is what is tried first, as in Netflix's.
	limitStart = 20
	// limitTolerance is how many times as long as base a replica may take without the limit being lowered.
	limitTolerance = 1.5
	// limitQueue is how many requests may wait at the replica; of a limit below 16 its root, which is Netflix's older rule: 4 are
	// many to one that does one after the other.
	limitQueue = 4
	// limitCalm is how many of those that a replica has may be without an answer, or limitQueue, where no queue is seen in that.
	limitCalm = 1.0 / 16
	// limitSmoothing is the weight of a window.
	limitSmoothing = 0.2
	// limitGrowth is by what a limit is raised while nothing has spoken against it.
	limitGrowth = 1.5
	// limitBackoff is what is left of a limit that was too much for the replica.
	limitBackoff = 0.9
	// limitWindow is the answers that a limit is changed by, at least. Of a large limit it is a part of those that are under way: what
	// more does to the time shows only when they are answered, and until then the limit should not have gone far. Where times differ
	// much it takes more, until their mean is as good as this, but no more than limitNoisy: the tolerance is not to be used up by chance.
	limitWindow     = 10
	limitWindowPart = 0.125
	limitError      = 0.12
	limitNoisy      = 60
	// limitSettle is how many times as many answers as there may be calls do not count after the limit was raised by much.
	limitSettle = 3
	// recently is the weight of a window in recent, which are some 10 of them.
	recently   = 0.2
	recentlyOf = 10

	// probeStep is by what a probe lowers the limit each time. It is more than 1/limitTolerance: at the limit's usual place the
	// first step costs nothing.
	probeStep = 0.5
	// probeAnswers are taken at each step, or as many as are under way, and more until it is as good as certain which side of probeQueue the time is on, to twice the
	// standard error; but no more than probeMost.
	probeAnswers = 20
	probeMost    = 100
	probeCertain = 2.0
	probeError   = 0.1
	// probeIdle are the calls that find less than half of a step in use by which a probe is given up.
	probeIdle = 40
	// probePatience is how many times as many other answers may come while some that are measured have not.
	probePatience = 8
	// probeQueue is how many times as long answers must take at the step above for requests to have waited there. With a queue
	// it is 1/probeStep, without one 1; half-way on the scale that counts.
	probeQueue = 1.414
	// Answers from a probe to the next, and how many times the limit at least: soon where base was not what it was thought to be.
	probeSeldom, probeSeldomOf = 5000, 400
	probeSoon, probeSoonOf     = 200, 15
	// probeSame is by what part of itself base may differ from the one before.
	probeSame = 0.25
	// slower is how many times as long as recently a base is that cannot be right any more.
	slower = 1.2
	// worthTelling is by what factor a limit has changed that is told of.
	worthTelling = 1.25
)

// begun is what is remembered of a call from its beginning.
type begun struct {
	round    uint64
	inflight int     // this one included
	pending  int     // of these, those that are not answered yet
	step     float64 // of the probe that measures it; 0 where none does
}

func newLimiter(least, most int) *limiter {
	l := &limiter{least: float64(least), most: float64(most), fast: true, due: probeSeldom, round: 1}
	l.limit = l.clamp(limitStart)
	l.told = l.limit
	l.probing, l.step, l.take = true, l.limit, probeAnswers
	return l
}

func (l *limiter) clamp(limit float64) float64 { return min(max(limit, l.least), l.most) }

// now is how many calls the replica may have.
func (l *limiter) now() int {
	if l.probing && l.base > 0 {
		return int(l.step)
	}
	return int(l.limit)
}

// begin notes that a call begins, which is one of so many that the replica has. One of answered, refused and forgotten follows.
func (l *limiter) begin(inflight int) begun {
	l.pending++
	of := begun{round: l.round, inflight: inflight, pending: min(l.pending, inflight)}
	if l.probing && l.take > 0 && inflight <= l.now() {
		if 2*inflight >= l.now() || l.base == 0 {
			of.step = l.step
			l.take--
			l.out++
		} else if l.idle++; l.idle >= probeIdle { // there is not enough to do
			l.end(l.limit)
		}
	}
	return of
}

// forgotten takes a call that says nothing: the client went, or the replica failed.
func (l *limiter) forgotten(of begun) {
	l.pending--
	if l.probing && of.step == l.step && of.round == l.round {
		l.out--
		l.probed()
	}
}

// answered takes what a call took, in seconds: until the first of the answer where that is a stream.
func (l *limiter) answered(of begun, seconds float64) {
	l.pending--
	if !(seconds > 0 && seconds < longest) {
		return
	}
	l.well = true
	if l.limit < l.goal && (!l.probing || l.base == 0) { // it refused everything for a while, and no longer does
		l.set(min(l.limit+1, l.goal))
		l.again(limitSettle)
	} else {
		l.goal = 0
	}
	switch {
	case l.probing && of.step == l.step && of.round == l.round:
		l.out--
		l.seen.add(seconds, 0)
		l.probed()
		return
	case l.probing:
		l.passed++
		l.probed()
		return
	}
	if l.skip > 0 {
		l.skip--
		return
	}
	if 2*float64(of.inflight) < l.limit { // would be no different with another limit
		return
	}
	l.since++
	l.inUse += of.inflight
	l.behind += of.pending
	least := max(limitWindow, int(limitWindowPart*float64(l.pending)))
	if l.window.add(seconds, 0); l.window.n < least || l.window.n < limitNoisy && l.window.error(l.window.n) > limitError*limitError {
		return
	}
	took := l.window.seconds
	calm := l.calm()
	l.newWindow()
	l.recent.add(took, recently)
	if l.recent.n >= 5 && slower*l.recent.seconds < l.base { // the replica has become faster
		l.base = slower * l.recent.seconds
	}
	gradient := min(max(limitTolerance*l.base/took, 0.5), 1)
	if calm {
		gradient, l.since = 1, 0
	}
	switch {
	case l.fast && gradient == 1:
		if before := l.limit; before < l.most {
			l.set(before * limitGrowth)
			l.recent = mean{}
			if l.again(limitSettle); calm { // those that are past their first piece were answered before
				l.skip = limitSettle * l.pending
			}
		}
		return
	case l.fast:
		l.fast = false
		l.since = l.due // what base is of was at the limit too
	}
	queue := l.queue()
	before := l.limit
	l.set(before*(1-limitSmoothing) + (before*gradient+queue)*limitSmoothing)
	if l.limit < before {
		l.again(1)
	}
	if !calm && l.recent.n >= 3 && (l.since >= l.due || 2*l.limit < l.found || l.base*limitTolerance < l.was) {
		l.probe()
	}
}

// refused takes note of a call that was too much for the replica.
func (l *limiter) refused(of begun) {
	l.forgotten(of)
	if of.round != l.round {
		return
	}
	l.round++
	l.fast = false
	l.set(l.limit * limitBackoff)
	if l.well || l.goal == 0 {
		l.goal, l.well = l.limit, false
	}
	if l.probing { // over
		l.end(l.limit)
	}
	l.again(1)
}

// queue is how many may wait at the replica.
func (l *limiter) queue() float64 { return min(limitQueue, math.Sqrt(l.limit)) }

// calm reports whether the calls of the window found no more of the others unanswered than those that the replica was just beginning.
func (l *limiter) calm() bool {
	n := float64(l.window.n)
	inUse, behind := float64(l.inUse)/n, float64(l.behind)/n
	return behind <= max(l.queue(), limitCalm*inUse) && 2*behind <= inUse
}

func (l *limiter) newWindow() { l.window, l.inUse, l.behind = mean{}, 0, 0 }

func (l *limiter) set(limit float64) { l.limit = l.clamp(limit) }

// again has answers count when the limit as it is now shows in them: after so many times those that are under way. The first that
// come of those that begin now are the quick ones, and would say too little.
func (l *limiter) again(times float64) {
	l.skip = int(times * float64(l.now()))
	l.newWindow()
}

// probe begins to find out what the replica takes without a queue.
func (l *limiter) probe() {
	l.since, l.due = 0, max(probeSeldom, int(probeSeldomOf*l.limit))
	if l.limit < 2 {
		l.found = l.limit
		return
	}
	l.probing, l.above, l.aboveN, l.queued = true, l.recent, min(l.recent.n, recentlyOf), 0
	l.lower(l.limit)
}

// lower goes on with the next step below.
func (l *limiter) lower(from float64) {
	l.step = max(math.Floor(from*probeStep), 1)
	l.take, l.out, l.passed, l.idle = max(probeAnswers, int(l.step)), 0, 0, 0
	l.seen = mean{}
	l.newWindow()
}

// probed goes on with a probe when all that it measures at this step have been answered: the first that come are the quick ones, and
// say too little.
func (l *limiter) probed() {
	late := l.passed > probePatience*(l.seen.n+l.out) // one of them hangs
	if !l.probing || l.take > 0 || l.out > 0 && !late {
		return
	}
	if l.seen.n == 0 {
		l.take, l.passed = probeAnswers, 0
		return
	}
	if l.base == 0 && (l.seen.n >= probeMost || late || l.seen.error(l.seen.n) < probeError*probeError) {
		l.base = l.seen.seconds
		l.end(l.limit)
		return
	}
	queue := math.Log(l.above.seconds / (probeQueue * l.seen.seconds)) // more than 0 with one
	unsure := math.Sqrt(l.above.error(l.aboveN) + l.seen.error(l.seen.n))
	vague := math.Abs(queue) < probeCertain*unsure || l.seen.error(l.seen.n) > probeError*probeError
	if vague && l.seen.n < probeMost && !late {
		l.take = probeAnswers
		return
	}
	if queue > 0 {
		l.queued = l.step / probeStep
		if l.step > 1 {
			l.above, l.aboveN = l.seen, l.seen.n
			l.lower(l.step)
			return
		}
		l.queued = l.step
	}
	l.base = l.seen.seconds
	after := l.limit
	if l.queued > 0 {
		after = min(after, l.queued*limitTolerance+limitQueue)
	}
	if l.queued == 0 || math.Abs(l.base-l.was) > probeSame*l.was { // not even at the limit, or news
		l.due = max(probeSoon, int(probeSoonOf*after))
	}
	l.end(after)
}

// end goes back from probing to a limit.
func (l *limiter) end(limit float64) {
	l.set(limit)
	if l.base == 0 { // the first one goes on until it knows
		l.step, l.take, l.out, l.passed, l.seen = l.limit, probeAnswers, 0, 0, mean{}
		return
	}
	l.probing = false
	l.found, l.was = l.limit, l.base
	l.recent = mean{}
	l.round++
	l.again(limitSettle)
}

// tell is the limit before and after a change that is worth telling of, since the last one that was told.
func (l *limiter) tell() (before, after int, changed bool) {
	if r := l.limit / l.told; r < worthTelling && r*worthTelling > 1 || int(l.limit) == int(l.told) {
		return 0, 0, false
	}
	before, after = int(l.told), int(l.limit)
	l.told = l.limit
	return before, after, true
}
