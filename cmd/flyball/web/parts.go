package web

import (
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
		Last   *rules.Decision `json:"last"` // null before the first
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
	respond(w, http.StatusOK, answer{Status: "success", Data: all})
}

// listScaleRules lists the rules that decide. Record and alert rules are in Prometheus's API, whose clients know no other.
func (p Page) listScaleRules(w http.ResponseWriter, r *http.Request) {
	all := []ruleState{}
	for _, rule := range p.Status(r.Context()).Rules {
		state := ruleState{Name: rule.Name, Target: rule.Target, Mode: rules.Observe, Last: rule.Last}
		if rule.Acts {
			state.Mode = rules.Act
		}
		all = append(all, state)
	}
	respond(w, http.StatusOK, answer{Status: "success", Data: all})
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
	respond(w, http.StatusOK, answer{Status: "success", Data: all})
}
