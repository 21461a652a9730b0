package exporter

import "github.com/prometheus/client_golang/prometheus"

// Desc describes the family's metrics, whose label values are given in the order of Labels.
func (f Family) Desc() *prometheus.Desc { return prometheus.NewDesc(f.Name, f.Help, f.Labels, nil) }
