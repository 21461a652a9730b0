package process

import (
	"fmt"
	"reflect"
)

// Update is a new configuration, checked and ready to be taken over.
type Update struct {
	p     *Processes
	next  map[string]*settings
	begun []string // the targets that Begin added
}

// Prepare checks a new configuration and changes nothing.
func (p *Processes) Prepare(cfg Config) (*Update, error) {
	next, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	return &Update{p: p, next: next}, nil
}

// Begin adds the targets that are new, at size 0, so that others can follow them from now on. Nothing else changes before
// Commit; Cancel takes them away again.
func (u *Update) Begin() {
	u.p.mu.Lock()
	defer u.p.mu.Unlock()
	u.begin()
}

func (u *Update) begin() {
	for name, s := range u.next {
		if u.p.pools[name] == nil {
			pool := newPool(name, s)
			u.p.pools[name] = pool
			u.p.metrics.show(pool.target)
			u.begun = append(u.begun, name)
		}
	}
}

// Cancel undoes Begin, where there will be no Commit.
func (u *Update) Cancel() {
	u.p.mu.Lock()
	defer u.p.mu.Unlock()
	for _, name := range u.begun {
		u.p.remove(name)
	}
	u.begun = nil
}

// Commit takes the configuration over: new targets are there, and settings that changed hold for every process that starts
// from now on. Processes that run go on as they were started, since to replace them all at once would take the target away;
// each that ends, by itself or by a smaller size, comes back with the new settings. Targets that the configuration has no
// more go on until Retire.
func (u *Update) Commit() {
	p := u.p
	p.mu.Lock()
	defer p.mu.Unlock()
	u.begin()
	for name, s := range u.next {
		if pool := p.pools[name]; !reflect.DeepEqual(pool.settings.Load().Target, s.Target) {
			pool.settings.Store(s)
			if n := len(pool.replicas); n > 0 {
				p.log.Info("settings changed, running replicas keep the old ones", "target", pool.target.String(), "replicas", n)
			}
		}
	}
}

// Retire ends the replicas of targets that the configuration has no more, each as in a scale-down, and does not wait. Whoever
// follows their endpoints should be gone by then.
func (u *Update) Retire() {
	p := u.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, pool := range p.pools {
		if u.next[name] == nil {
			p.log.Info("target removed", "target", pool.target.String(), "replicas", len(pool.replicas))
			p.remove(name)
		}
	}
}

// remove takes a target away and ends its replicas; mu is held.
func (p *Processes) remove(name string) {
	pool := p.pools[name]
	delete(p.pools, name)
	p.metrics.forget(pool.target)
	pool.removed, pool.spec = true, 0
	for _, r := range pool.replicas {
		r.retire()
	}
	pool.publish()
	if len(pool.replicas) == 0 {
		pool.endpoints.end()
	}
}

// compile checks a configuration and makes the settings of each target.
func compile(cfg Config) (map[string]*settings, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if len(cfg) > 0 {
		if err := supported(); err != nil {
			return nil, err
		}
	}
	all := make(map[string]*settings, len(cfg))
	for name, target := range cfg {
		command, err := target.compile()
		if err != nil {
			return nil, fmt.Errorf("%s.%w", name, err)
		}
		all[name] = &settings{target, command}
	}
	return all, nil
}
