package web

import (
	"math"
	"net/http"
	"time"

	"flyball/rules"
)

// The API's own view of a Status: names that stay as they are whatever the page shows.
type (
	modelState struct {
		Name    string `json:"name"`
		Queued  int    `json:"queued"`  // requests waiting
		Running int    `json:"running"` // requests with a replica
		Ready   int    `json:"ready"`   // replicas
	}
	ruleState struct {
		Name   string          `json:"name"`
		Target string          `json:"target"`
		Mode   string          `json:"mode"` // act or observe: what it does in this process
		Paused *rules.Freeze   `json:"paused,omitempty"`
		Last   *rules.Decision `json:"last"` // null before the first
	}
	budgetState struct {
		Name        string    `json:"name"`
		Policy      string    `json:"policy"`
		Period      string    `json:"period"`
		AppliesTo   []string  `json:"applies_to"`
		LimitUSD    float64   `json:"limit_usd"`
		SpendUSD    *float64  `json:"spend_usd"` // null where it is not known
		ForecastUSD *float64  `json:"forecast_usd"`
		UsedUp      bool      `json:"used_up"`
		PeriodEnd   time.Time `json:"period_end,omitzero"`
	}
	targetState struct {
		Target   string         `json:"target"`
		Replicas []replicaState `json:"replicas"`
	}
	replicaState struct {
		Index    int       `json:"index"`
		Address  string    `json:"address"`
		State    string    `json:"state"`
		Since    time.Time `json:"since"`
		PID      int       `json:"pid"`
		Restarts int       `json:"restarts"`
		LastExit string    `json:"last_exit,omitempty"`
	}
)

func (p Page) listModels(w http.ResponseWriter, r *http.Request) {
	all := []modelState{}
	for _, m := range p.Status(r.Context()).Models {
		all = append(all, modelState{Name: m.Name, Queued: m.Queued, Running: m.Running, Ready: m.Ready})
	}
	p.success(w, all)
}

// listScaleRules lists the rules that decide. Record and alert rules are in Prometheus's API, whose clients know no other.
func (p Page) listScaleRules(w http.ResponseWriter, r *http.Request) {
	all := []ruleState{}
	for _, rule := range p.Status(r.Context()).Rules {
		state := ruleState{Name: rule.Name, Target: rule.Target, Mode: rules.Observe, Paused: rule.Paused, Last: rule.Last}
		if rule.Acts {
			state.Mode = rules.Act
		}
		all = append(all, state)
	}
	p.success(w, all)
}

func (p Page) listBudgets(w http.ResponseWriter, r *http.Request) {
	all := []budgetState{}
	known := func(v float64) *float64 {
		if math.IsNaN(v) {
			return nil
		}
		return &v
	}
	for _, b := range p.Status(r.Context()).Budgets {
		applies := b.AppliesTo
		if applies == nil {
			applies = []string{}
		}
		all = append(all, budgetState{
			Name: b.Name, Policy: b.Policy, Period: b.Period, AppliesTo: applies, LimitUSD: b.LimitUSD, SpendUSD: known(b.SpendUSD),
			ForecastUSD: known(b.ForecastUSD), UsedUp: b.UsedUp, PeriodEnd: b.PeriodEnd,
		})
	}
	p.success(w, all)
}

// listForecasts lists the forecast rules; the parameter name selects one.
func (p Page) listForecasts(w http.ResponseWriter, r *http.Request) {
	all := []rules.ForecastStatus{}
	if p.Forecasts != nil {
		for _, f := range p.Forecasts() {
			if name := r.URL.Query().Get("name"); name == "" || name == f.Name {
				all = append(all, f)
			}
		}
	}
	p.success(w, all)
}

// listActuatorTargets lists what is scaled, with its replicas. Scrape targets are in Prometheus's API.
func (p Page) listActuatorTargets(w http.ResponseWriter, r *http.Request) {
	all := []targetState{}
	place := map[string]int{}
	for _, replica := range p.Status(r.Context()).Replicas {
		i, ok := place[replica.Target]
		if !ok {
			i = len(all)
			place[replica.Target] = i
			all = append(all, targetState{Target: replica.Target})
		}
		all[i].Replicas = append(all[i].Replicas, replicaState{
			Index: replica.Index, Address: replica.Address, State: replica.State, Since: replica.Since, PID: replica.PID,
			Restarts: replica.Restarts, LastExit: replica.LastExit,
		})
	}
	p.success(w, all)
}
