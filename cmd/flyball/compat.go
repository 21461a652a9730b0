package main

import (
	"cmp"
	"net/http"
	"os"

	"github.com/alecthomas/kingpin/v2"

	"flyball/cmd/flyball/web"
	"flyball/exporter"
	"flyball/exporter/gpu"
	"flyball/exporter/gpu/dcgm"
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
func newDCGMPage(c exporter.Config, gpus *gpu.Collector) http.Handler {
	if gpus == nil || c.Compat != exporter.CompatDCGM {
		return nil
	}
	return dcgm.Handler(dcgm.Options{GPUs: gpus, Hostname: nodeName(), HostnameLabel: c.CompatHostnameLabel})
}

// nodeName is the name of the node as dcgm-exporter finds it: what the pod was told of its node, or the machine's own.
func nodeName() string {
	host, _ := os.Hostname() // without a name there is no label
	return cmp.Or(os.Getenv("NODE_NAME"), host)
}
