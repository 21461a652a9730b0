package dashboard

import (
	"context"
	"fmt"
	"strconv"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// Prometheus is the API of a Prometheus, or of anything that has the same.
func Prometheus(api v1.API) API { return remote{api} }

type remote struct{ api v1.API }

func (r remote) Query(ctx context.Context, expr string, at time.Time) (int, error) {
	v, _, _, err := r.api.Query(ctx, expr, at)
	return count(v), err
}

func (r remote) QueryRange(ctx context.Context, expr string, w Window) (int, error) {
	v, _, _, err := r.api.QueryRange(ctx, expr, v1.Range{Start: w.Start, End: w.End, Step: w.Step})
	return count(v), err
}

// count is how many series an answer has.
func count(v model.Value) int {
	switch v := v.(type) {
	case model.Vector:
		return len(v)
	case model.Matrix:
		return len(v)
	case *model.Scalar, *model.String:
		return 1
	}
	return 0
}

func (r remote) LabelNames(ctx context.Context, matches []string, w Window) ([]string, error) {
	names, _, _, err := r.api.LabelNames(ctx, matches, w.Start, w.End)
	texts := make([]string, len(names))
	for i, n := range names {
		texts[i] = string(n)
	}
	return texts, err
}

func (r remote) LabelValues(ctx context.Context, label string, matches []string, w Window) ([]string, error) {
	values, _, _, err := r.api.LabelValues(ctx, label, matches, w.Start, w.End)
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = string(v)
	}
	return texts, err
}

func (r remote) Series(ctx context.Context, expr string, at time.Time) ([]string, error) {
	v, _, _, err := r.api.Query(ctx, expr, at)
	if err != nil {
		return nil, err
	}
	var texts []string
	switch v := v.(type) {
	case model.Vector:
		for _, s := range v {
			texts = append(texts, fmt.Sprintf("%s %s %d", s.Metric, s.Value, s.Timestamp))
		}
	case *model.Scalar:
		texts = append(texts, strconv.FormatFloat(float64(v.Value), 'g', -1, 64))
	}
	return texts, nil
}
