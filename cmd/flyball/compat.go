package main

import (
	"cmp"
	"net/http"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"flyball/cmd/flyball/web"
	"flyball/exporter"
	"flyball/exporter/gpu/dcgm"
	"flyball/exporter/gpu/pods"
)

// compatFlags adds the flag that says under whose names the GPUs are served beside our own.
func (o *runOptions) compatFlags(c *kingpin.CmdClause) {
	c.Flag("compat", "Serve the GPUs under the names of NVIDIA's dcgm-exporter too, at /metrics/dcgm, instead of exporter.compat in the configuration: none or dcgm.").
		PlaceHolder("NAMES").EnumVar(&o.compat, exporter.CompatNone, exporter.CompatDCGM)
}

// dcgmPage serves the GPUs under dcgm-exporter's names while the configuration says so.
func (a *app) dcgmPage() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page := a.live.Load().dcgm
		if page == nil {
			web.Text(w, http.StatusNotFound, "This process does not serve the names of dcgm-exporter: it takes the role exporter and exporter.compat: dcgm, or --compat=dcgm.\n")
			return
		}
		page.ServeHTTP(w, r)
	})
}

// newDCGMPage is the page of a configuration; nil where there is none.
func newDCGMPage(c exporter.Config, s sensors) http.Handler {
	if s.gpus == nil || c.Compat != exporter.CompatDCGM {
		return nil
	}
	o := dcgm.Options{GPUs: s.gpus, Hostname: nodeName(), HostnameLabel: c.CompatHostnameLabel}
	if s.pods != nil {
		o.Pods = onlyHolder{s.pods}
	}
	return dcgm.Handler(o)
}

// onlyHolder is the pod that has a GPU for itself.
type onlyHolder struct{ pods *pods.Collector }

// Pod implements dcgm.Pods.
func (h onlyHolder) Pod(uuid string, gi *int) (dcgm.Pod, bool) {
	all := h.pods.Holders(uuid, gi)
	if len(all) != 1 {
		return dcgm.Pod{}, false
	}
	return dcgm.Pod(all[0]), true
}

// nodeName is the name of the node as dcgm-exporter finds it: what the pod was told of its node, or the machine's own.
func nodeName() string {
	host, _ := os.Hostname() // without a name there is no label
	return cmp.Or(os.Getenv("NODE_NAME"), host)
}
