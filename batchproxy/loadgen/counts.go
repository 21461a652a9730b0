package loadgen

// Kind is what became of a request.
type Kind string

// The kinds of outcome. Each arrival has exactly one.
const (
	KindOK         Kind = "ok"         // a 2xx answer, right where answers are checked
	KindWrong      Kind = "wrong"      // a 2xx answer that is not the expected one, or carries another id
	KindHTTP429    Kind = "http_429"   // refused: too many requests
	KindHTTP4xx    Kind = "http_4xx"   // another status from 400 to 499
	KindHTTP5xx    Kind = "http_5xx"   // a status from 500 to 599
	KindHTTPOther  Kind = "http_other" // any other status; redirects are not followed
	KindTimeout    Kind = "timeout"    // no whole answer within Options.Timeout
	KindConnection Kind = "connection" // no connection, or one that broke before the answer was whole
	KindSaturated  Kind = "saturated"  // not sent: Options.MaxInflight requests were waiting already
	KindCancelled  Kind = "cancelled"  // sent, but the run was stopped before its answer came
)

// Kinds lists the kinds of outcome, the good one first.
func Kinds() []Kind {
	return []Kind{
		KindOK, KindWrong, KindHTTP429, KindHTTP4xx, KindHTTP5xx, KindHTTPOther,
		KindTimeout, KindConnection, KindSaturated, KindCancelled,
	}
}

// timed says whether the latency of such a request is recorded. See Latency.
func (k Kind) timed() bool { return k == KindOK || k == KindWrong || k == KindTimeout }

// Counts are arrivals by what became of them.
type Counts struct {
	OK         int64 `json:"ok"`
	Wrong      int64 `json:"wrong"`
	HTTP429    int64 `json:"http_429"`
	HTTP4xx    int64 `json:"http_4xx"`
	HTTP5xx    int64 `json:"http_5xx"`
	HTTPOther  int64 `json:"http_other"`
	Timeout    int64 `json:"timeout"`
	Connection int64 `json:"connection"`
	Saturated  int64 `json:"saturated"`
	Cancelled  int64 `json:"cancelled"`
}

// Of is the count of one kind.
func (c Counts) Of(kind Kind) int64 { return *c.at(kind) }

// Total counts every arrival.
func (c Counts) Total() int64 {
	return c.OK + c.Wrong + c.Errors()
}

// Errors counts the arrivals that are neither ok nor wrong.
func (c Counts) Errors() int64 {
	return c.HTTP429 + c.HTTP4xx + c.HTTP5xx + c.HTTPOther + c.Timeout + c.Connection + c.Saturated + c.Cancelled
}

// at is where the count of a kind is kept.
func (c *Counts) at(kind Kind) *int64 {
	switch kind {
	case KindOK:
		return &c.OK
	case KindWrong:
		return &c.Wrong
	case KindHTTP429:
		return &c.HTTP429
	case KindHTTP4xx:
		return &c.HTTP4xx
	case KindHTTP5xx:
		return &c.HTTP5xx
	case KindHTTPOther:
		return &c.HTTPOther
	case KindTimeout:
		return &c.Timeout
	case KindConnection:
		return &c.Connection
	case KindSaturated:
		return &c.Saturated
	case KindCancelled:
		return &c.Cancelled
	}
	panic("loadgen: no count for kind " + string(kind))
}
