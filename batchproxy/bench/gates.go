package main

import (
	"fmt"
	"strconv"
	"strings"
)

// Verdict is what became of a gate.
type Verdict string

const (
	// Held is a promise that was kept.
	Held Verdict = "held"
	// Missed is one that was not; the exit status is then 3.
	Missed Verdict = "MISSED"
	// NotReached is a stretch goal that was not reached, which is no fault.
	NotReached Verdict = "not reached"
	// NotMeasured is one whose figures are not all there; the notes say why.
	NotMeasured Verdict = "not measured"
)

// Gate is a promise, and what was measured of it.
type Gate struct {
	What    string  `json:"what"`
	AtMost  bool    `json:"at_most"` // the bound is an upper one
	Bound   float64 `json:"bound"`
	Stretch bool    `json:"stretch,omitempty"`
	Value   float64 `json:"value"` // 0 where not measured
	Of      string  `json:"of"`    // the figures that the value is made of
	Verdict Verdict `json:"verdict"`
}

// judge gives the gate its value and verdict.
func (g Gate) judge(value float64, of string) Gate {
	g.Value, g.Of, g.Verdict = value, of, Held
	if g.AtMost && !(value <= g.Bound) || !g.AtMost && !(value >= g.Bound) { // NaN holds nothing
		g.Verdict = Missed
		if g.Stretch {
			g.Verdict = NotReached
		}
	}
	return g
}

// missed reports whether a gate is missed.
func missed(gates []Gate) bool {
	for _, g := range gates {
		if g.Verdict == Missed {
			return true
		}
	}
	return false
}

// judge holds the figures against all that the proxy promises.
func judge(f *figures, faults int64) []Gate {
	var gates []Gate
	// ratio is the gate of one figure to another.
	ratio := func(g Gate, a Figure, nameA string, okA bool, b Figure, nameB string, okB bool) {
		g.Verdict = NotMeasured
		if okA && okB && b.Median > 0 {
			g = g.judge(a.Median/b.Median, fmt.Sprintf("%s %s, %s %s", nameA, number(a.Median), nameB, number(b.Median)))
		}
		gates = append(gates, g)
	}
	// between is the gate of the figures of two rows in one column.
	between := func(g Gate, table, column, rowA, rowB string) {
		a, okA := f.of(table, rowA, column)
		b, okB := f.of(table, rowB, column)
		ratio(g, a, rowA, okA, b, rowB, okB)
		if r := f.paired(table, column, rowA, rowB); r.Rounds > 2 {
			g := &gates[len(gates)-1]
			g.Of += fmt.Sprintf("; round by round %s, %s..%s", number(r.Median), number(r.Min), number(r.Max))
		}
	}
	between(Gate{What: "closed loop, 1 client: p50 of adaptive to direct", AtMost: true, Bound: 1.05}, closedP50, clients(1), adaptive, direct)
	for _, c := range []int{8, 16, 24, 32, 36, 48, 64} {
		g := Gate{What: fmt.Sprintf("closed loop, %d clients: requests/s of adaptive to the best other", c), Bound: 0.99}
		if c <= 16 {
			g.Bound = 1.15
		}
		a, okA := f.of(closedRate, adaptive, clients(c))
		name, b, okB := f.best(closedRate, clients(c), adaptive)
		ratio(g, a, adaptive, okA, b, name, okB)
	}
	for _, rate := range poissonRates {
		between(Gate{What: fmt.Sprintf("poisson, %g/s: mean latency of adaptive to greedy", rate), AtMost: true, Bound: 1.01}, poissonMean, perSecond(rate), adaptive, greedy)
	}
	between(Gate{What: "ONNX MLP, 64 clients: requests/s of adaptive to direct", Bound: 5}, onnxRate(modelMLP), clients(64), adaptive, direct)
	for _, c := range onnxClients {
		between(Gate{What: fmt.Sprintf("ONNX convolution, %d clients: requests/s of adaptive to direct", c), Bound: 0.95}, onnxRate(modelConv), clients(c), adaptive, direct)
	}
	overloaded := func(g Gate, column string) {
		g.Verdict = NotMeasured
		if v, ok := f.of(overloadTable, adaptive, column); ok {
			g = g.judge(v.Median, adaptive)
		}
		gates = append(gates, g)
	}
	overloaded(Gate{What: "overload: goodput of adaptive, as a part of its capacity", Bound: 0.95}, overloadShare)
	// Memory is bounded where the second half of the overload needs no more than the first did, but for the noise of collections.
	overloaded(Gate{What: "overload: peak memory of adaptive in the second half to that in the first", AtMost: true, Bound: 1.25}, overloadGrowth)
	for _, c := range passClients {
		between(Gate{What: fmt.Sprintf("pass-through, %s: CPU a request of flyball to ReverseProxy", clients(c)), AtMost: true, Bound: 1}, passCPU, clients(c), passThrough, reverseProxy)
	}
	for _, c := range passClients {
		between(Gate{What: fmt.Sprintf("pass-through, %s: CPU a request of flyball to nginx", clients(c)), AtMost: true, Bound: 1.5, Stretch: true}, passCPU, clients(c), passThrough, nginx)
	}
	spliced := 0
	if t := f.find(spliceTable); t != nil {
		for _, row := range t.rows {
			v, _ := f.of(spliceTable, row, spliceTime)
			g := Gate{What: "merge and split of 32 x 768 floats, " + row + ": ms", AtMost: true, Bound: 1.3}
			if strings.Contains(row, "binary") {
				g.Bound = 0.02
			}
			gates = append(gates, g.judge(v.Median, strconv.Itoa(v.Rounds)+" rounds"))
			spliced++
		}
	}
	if spliced == 0 {
		gates = append(gates, Gate{What: "merge and split of 32 x 768 floats: ms", AtMost: true, Bound: 1.3, Verdict: NotMeasured})
	}
	return append(gates, Gate{What: "requests that failed or had a wrong answer, overload aside", AtMost: true}.judge(float64(faults), "all contenders"))
}

// writeGates writes a line for each gate.
func writeGates(b *strings.Builder, gates []Gate) {
	b.WriteString("\ngates\n")
	for _, g := range gates {
		limit := "at least "
		if g.AtMost {
			limit = "at most "
		}
		value := "-"
		if g.Verdict != NotMeasured {
			value = number(g.Value)
		}
		of := ""
		if g.Of != "" {
			of = "  (" + g.Of + ")"
		}
		stretch := ""
		if g.Stretch {
			stretch = "stretch: "
		}
		fmt.Fprintf(b, "  %-12s  %-76s %6s  %s%s\n", g.Verdict, stretch+g.What, value, limit+number(g.Bound), of)
	}
}
