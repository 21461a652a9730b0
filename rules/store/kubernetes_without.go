//go:build nokubernetes

package store

import (
	"reflect"

	"github.com/prometheus/prometheus/discovery"
)

const discoveries = "static_configs, file_sd_configs or http_sd_configs"

const withoutKubernetes = "this flyball was built without Kubernetes (-tags nokubernetes)"

func kubernetesForms() map[string]reflect.Type { return nil }

func checkKubernetes(discovery.Config, bool) error { return nil }
