package rules

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
)

// stepDo is a parsed `do`.
type stepDo struct {
	hold     bool
	set      bool // = rather than + or -
	replicas int  // signed unless set
	percent  float64
}

var doForm = regexp.MustCompile(`^([+=-])(\d{1,6})(%?)$`)

func parseDo(do string) (stepDo, error) {
	if do == "hold" {
		return stepDo{hold: true}, nil
	}
	var m []string
	if len(do) < 20 {
		m = doForm.FindStringSubmatch(do)
	}
	if m == nil || m[1] == "=" && m[3] == "%" {
		return stepDo{}, fmt.Errorf("%q: expected +2, +25%%, -1, -25%%, =3 or hold", do)
	}
	n, err := strconv.Atoi(m[2])
	if err != nil {
		return stepDo{}, fmt.Errorf("%q: %w", do, err)
	}
	if n == 0 && m[1] != "=" {
		return stepDo{}, fmt.Errorf("%q changes nothing: for that there is hold", do)
	}
	if m[1] == "-" {
		n = -n
	}
	if m[3] == "%" {
		return stepDo{percent: float64(n)}, nil
	}
	return stepDo{set: m[1] == "=", replicas: n}, nil
}

// from is the size that the step asks for when there is the current one, in which a replica counts unit. A percentage moves
// by at least one replica.
func (do stepDo) from(current, unit int) int {
	switch {
	case do.hold:
		return current
	case do.set:
		return do.replicas
	case do.percent > 0:
		return current + max(unit, int(math.Ceil(float64(current)*do.percent/100)))
	case do.percent < 0:
		return max(0, current-max(unit, int(math.Floor(float64(current)*-do.percent/100))))
	}
	return max(0, current+do.replicas*unit)
}
