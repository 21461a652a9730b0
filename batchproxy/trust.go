package batchproxy

import (
	"errors"
	"net/http"
	"net/netip"
)

// Trust says whose requests are believed in what they say of themselves. The zero value believes nobody.
type Trust struct {
	Everyone bool
	// From are CIDRs: those whose connection comes from an address in one of them are believed. What a header such as
	// X-Forwarded-For says of an address does not count, as anybody may write there what he likes.
	From []string
}

// UnmarshalYAML takes true, false or a list of CIDRs, which [Config.Validate] reads.
func (t *Trust) UnmarshalYAML(decode func(any) error) error {
	var out Trust
	if decode(&out.Everyone) != nil && decode(&out.From) != nil {
		return errors.New("expected true, false or a list of CIDRs such as [10.0.0.0/8]")
	}
	*t = out
	return nil
}

// trust is a [Trust] whose CIDRs are read.
type trust struct {
	everyone bool
	from     []netip.Prefix
}

// read reads the CIDRs, of a configuration that was validated.
func (t Trust) read() trust {
	out := trust{everyone: t.Everyone}
	for _, text := range t.From {
		if p, err := netip.ParsePrefix(text); err == nil {
			out.from = append(out.from, p)
		}
	}
	return out
}

// believes reports whether what a request says of its priority and tenant counts.
func (t *trust) believes(r *http.Request) bool {
	return t.everyone || len(t.from) > 0 && t.listed(r)
}

// listed reports whether a request's connection comes from an address in the list.
func (t *trust) listed(r *http.Request) bool {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil { // not a connection of IP
		return false
	}
	address := at.Addr().Unmap().WithZone("")
	for _, p := range t.from {
		if p.Contains(address) {
			return true
		}
	}
	return false
}
