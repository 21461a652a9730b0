package process

import (
	"fmt"
	"reflect"
)

// Update is a new configuration, checked and ready to be taken over.
type Update struct {
	p    *Processes
	next map[string]*settings
}

// Prepare checks a new configuration and changes nothing.
func (p *Processes) Prepare(cfg Config) (*Update, error) {
	next, err := compile(cfg)
	if err != nil {
		return nil, err
	}
	return &Update{p, next}, nil
}

// Commit takes the configuration over: new targets are there, at size 0, and settings that changed hold for every process
// that starts from now on. Processes that run go on as they were started, since to replace them all at once would take the
// target away; each that ends, by itself or by a smaller size, comes back with the new settings. Targets that the
// configuration has no more go on until Retire.
func (u *Update) Commit() {
	p := u.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, s := range u.next {
		pool := p.pools[name]
		switch {
		case pool == nil:
			p.pools[name] = newPool(name, s)
			p.metrics.show(p.pools[name].target)
		case !reflect.DeepEqual(pool.settings.Load().Target, s.Target):
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
		if u.next[name] != nil {
			continue
		}
		p.log.Info("target removed", "target", pool.target.String(), "replicas", len(pool.replicas))
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
