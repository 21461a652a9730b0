package forecast

import "math"

// maxDim is the most parameters that a fit has: level, slope, damping, two seasons, autocorrelation.
const maxDim = 6

// minimizer is the simplex of Nelder and Mead (Computer Journal 7, 1965) over at most maxDim dimensions. It needs no
// derivative, stands losses that are not smooth, and allocates nothing.
type minimizer struct {
	f      func(x []float64) float64
	n      int
	points [maxDim + 1][maxDim]float64
	values [maxDim + 1]float64
	evals  int
	budget int // evaluations that may be spent
}

// minimize starts at x with a simplex of the given size and leaves the best point in x. It ends when the budget of
// evaluations is spent, or when the values of the simplex agree within tol, relatively. It returns the value at x and the
// evaluations that it took. A value that is NaN counts as +Inf.
func minimize(f func(x []float64) float64, x []float64, size, tol float64, budget int) (float64, int) {
	m := minimizer{f: f, n: len(x), budget: budget}
	for i := 0; i <= m.n; i++ {
		copy(m.points[i][:], x)
		if i > 0 {
			m.points[i][i-1] += size
		}
		m.values[i] = m.at(&m.points[i])
	}
	for m.evals < m.budget {
		m.sort()
		if m.values[m.n]-m.values[0] <= tol*math.Abs(m.values[0]) {
			break
		}
		m.step()
	}
	m.sort()
	copy(x, m.points[0][:m.n])
	return m.values[0], m.evals
}

func (m *minimizer) at(p *[maxDim]float64) float64 {
	m.evals++
	v := m.f(p[:m.n])
	if math.IsNaN(v) {
		return math.Inf(1)
	}
	return v
}

// sort orders the points by their values; insertion is quickest for seven that are nearly in order.
func (m *minimizer) sort() {
	for i := 1; i <= m.n; i++ {
		for j := i; j > 0 && m.values[j] < m.values[j-1]; j-- {
			m.values[j], m.values[j-1] = m.values[j-1], m.values[j]
			m.points[j], m.points[j-1] = m.points[j-1], m.points[j]
		}
	}
}

// step replaces the worst point by its reflection in the centre of the others, by a point further out or further in, or
// else draws all points towards the best.
func (m *minimizer) step() {
	var centre [maxDim]float64
	for i := range m.n {
		for d := range m.n {
			centre[d] += m.points[i][d] / float64(m.n)
		}
	}
	worst := &m.points[m.n]
	along := func(t float64) (p [maxDim]float64) {
		for d := range m.n {
			p[d] = centre[d] + t*(worst[d]-centre[d])
		}
		return p
	}
	p := along(-1)
	v := m.at(&p)
	switch {
	case v < m.values[0]:
		q := along(-2)
		if w := m.at(&q); w < v {
			p, v = q, w
		}
	case v >= m.values[m.n-1]:
		t := 0.5
		if v < m.values[m.n] {
			t = -0.5
		}
		q := along(t)
		w := m.at(&q)
		if w >= min(v, m.values[m.n]) {
			m.shrink()
			return
		}
		p, v = q, w
	}
	m.points[m.n], m.values[m.n] = p, v
}

func (m *minimizer) shrink() {
	for i := 1; i <= m.n; i++ {
		for d := range m.n {
			m.points[i][d] = (m.points[i][d] + m.points[0][d]) / 2
		}
		m.values[i] = m.at(&m.points[i])
	}
}

// logistic maps a real number to (0, 1), by which a minimum without bounds finds one between bounds.
func logistic(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// logit is the inverse of logistic; p is kept off 0 and 1.
func logit(p float64) float64 {
	p = min(max(p, 1e-9), 1-1e-9)
	return math.Log(p / (1 - p))
}
