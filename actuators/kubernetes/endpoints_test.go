package kubernetes

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sliceOf is an EndpointSlice: ports are name=number or name=number/UDP; each endpoint is an address with the conditions that
// are true (+) or false (-), by their first letters, as in 10.0.0.1 -r +s +t.
func sliceOf(name string, family discoveryv1.AddressType, ports string, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		TypeMeta:   metav1.TypeMeta{Kind: "EndpointSlice", APIVersion: "discovery.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, AddressType: family,
	}
	for p := range strings.FieldsSeq(ports) {
		name, number, _ := strings.Cut(p, "=")
		var n int32
		protocol := corev1.ProtocolTCP
		if number, udp := strings.CutSuffix(number, "/UDP"); udp {
			protocol = corev1.ProtocolUDP
			_, _ = fmt.Sscan(number, &n)
		} else {
			_, _ = fmt.Sscan(number, &n)
		}
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: &name, Port: &n, Protocol: &protocol})
	}
	for _, text := range endpoints {
		fields := strings.Fields(text)
		e := discoveryv1.Endpoint{Addresses: []string{fields[0]}}
		for _, f := range fields[1:] {
			is := f[0] == '+'
			switch f[1] {
			case 'r':
				e.Conditions.Ready = &is
			case 's':
				e.Conditions.Serving = &is
			case 't':
				e.Conditions.Terminating = &is
			}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

func TestEndpointsOf(t *testing.T) {
	const v4, v6, fqdn = discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN
	portless := sliceOf("a", v4, "http=8000", "10.0.0.1 +r")
	portless.Ports[0].Port = nil
	nameless := sliceOf("a", v4, "http=8000", "10.0.0.1 +r")
	nameless.Ports[0].Name, nameless.Ports[0].Protocol = nil, nil
	for _, tt := range []struct {
		name, port string
		slices     []*discoveryv1.EndpointSlice
		want       string
		trouble    string
	}{
		{name: "no slice", trouble: "the namespace has no EndpointSlice of it: is there such a Service, and has it a selector?"},
		{name: "no pods", port: "http", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "")}},
		{name: "the only port", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.2 +r", "10.0.0.1 +r")}, want: "10.0.0.1:8000 10.0.0.2:8000"},
		{name: "without conditions", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.1")}, want: "10.0.0.1:8000"},
		{name: "by name", port: "http", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "metrics=9000 http=8000", "10.0.0.1")}, want: "10.0.0.1:8000"},
		{name: "by number", port: "9000", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "metrics=9000 http=8000", "10.0.0.1")}, want: "10.0.0.1:9000"},
		{name: "without name and protocol", slices: []*discoveryv1.EndpointSlice{nameless}, want: "10.0.0.1:8000"},
		{name: "no such port", port: "grpc", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "metrics=9000 http=8000", "10.0.0.1")}, trouble: `it has no port "grpc": its EndpointSlices have http (8000), metrics (9000)`},
		{name: "more than one", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "metrics=9000 http=8000", "10.0.0.1")}, trouble: "it has more than one port: give one of http (8000), metrics (9000)"},
		{name: "one of TCP", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "dns=53/UDP http=8000", "10.0.0.1")}, want: "10.0.0.1:8000"},
		{name: "any port", slices: []*discoveryv1.EndpointSlice{portless}, trouble: "its EndpointSlices have no port of TCP: give the Service one"},
		{name: "no port", port: "8000", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "", "10.0.0.1")}, trouble: "its EndpointSlices have no port of TCP: give the Service one"},
		{name: "of UDP", port: "53", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "dns=53/UDP", "10.0.0.1")}, trouble: "its EndpointSlices have no port of TCP: give the Service one"},
		{name: "ports of slices differ", port: "http", slices: []*discoveryv1.EndpointSlice{
			sliceOf("a", v4, "http=8000", "10.0.0.1"), sliceOf("b", v4, "http=8001", "10.0.0.2"),
		}, want: "10.0.0.1:8000 10.0.0.2:8001"},
		{name: "in two slices", slices: []*discoveryv1.EndpointSlice{
			sliceOf("a", v4, "http=8000", "10.0.0.1", "10.0.0.2"), sliceOf("b", v4, "http=8000", "10.0.0.2", "10.0.0.3"),
		}, want: "10.0.0.1:8000 10.0.0.2:8000 10.0.0.3:8000"},
		{name: "not ready", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.1 -r -s -t", "10.0.0.2 +r")}, want: "10.0.0.2:8000"},
		{name: "one terminates", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.1 -r +s +t", "10.0.0.2 +r +s -t")}, want: "10.0.0.2:8000"},
		{name: "all terminate", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.1 -r +s +t", "10.0.0.2 -r -s +t", "10.0.0.3 -r +s -t")}, want: "10.0.0.1:8000"},
		{name: "none serves", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v4, "http=8000", "10.0.0.1 -r", "10.0.0.2 -r +t")}},
		{name: "dual stack", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v6, "http=8000", "fd00::1"), sliceOf("b", v4, "http=8000", "10.0.0.1")}, want: "10.0.0.1:8000"},
		{name: "IPv6", slices: []*discoveryv1.EndpointSlice{sliceOf("a", v6, "http=8000", "fd00::1")}, want: "[fd00::1]:8000"},
		{name: "dual stack, ready by IPv6 alone", slices: []*discoveryv1.EndpointSlice{
			sliceOf("a", v6, "http=8000", "fd00::1 +r"), sliceOf("b", v4, "http=8000", "10.0.0.1 -r +s +t"),
		}, want: "[fd00::1]:8000"},
		{name: "names", slices: []*discoveryv1.EndpointSlice{sliceOf("a", fqdn, "http=8000", "llama.example.com"), sliceOf("b", v4, "http=8000", "10.0.0.1")}, want: "10.0.0.1:8000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, trouble := endpointsOf(tt.slices, tt.port)
			if diff := cmp.Diff([]string{tt.want, tt.trouble}, []string{strings.Join(got, " "), trouble}); diff != "" {
				t.Error(diff)
			}
		})
	}
}
