package exporter

import (
	"errors"
	"fmt"
	"math"
	"path/filepath"
)

// Kubernetes is how the pods on the GPUs are found.
type Kubernetes struct {
	PodResourcesSocket string `yaml:"pod_resources_socket"` // of the kubelet; without it this is no node of a cluster
}

// defaultKubernetes has the socket below the kubelet's root directory where that is not moved.
func defaultKubernetes() Kubernetes {
	return Kubernetes{PodResourcesSocket: "/var/lib/kubelet/pod-resources/kubelet.sock"}
}

func (k Kubernetes) validate() error {
	if !filepath.IsAbs(k.PodResourcesSocket) {
		return fmt.Errorf("kubernetes.pod_resources_socket: %q is no absolute path: give one such as %s, or collectors.pods: false", k.PodResourcesSocket, defaultKubernetes().PodResourcesSocket)
	}
	return nil
}

// IdleWatts is the power that a GPU draws while nothing runs on it.
type IdleWatts struct {
	Watts *float64 // of each GPU; nil for auto: the least that was seen of it while nothing ran
}

// UnmarshalYAML takes auto or a number.
func (w *IdleWatts) UnmarshalYAML(decode func(any) error) error {
	var text string
	if decode(&text) == nil && text == "auto" {
		*w = IdleWatts{}
		return nil
	}
	var watts float64
	if decode(&watts) != nil {
		return errors.New("expected auto or a number of watts such as 50")
	}
	*w = IdleWatts{Watts: &watts}
	return nil
}

func (w IdleWatts) validate() error {
	if w.Watts == nil {
		return nil
	}
	// No GPU draws a kilowatt idle: whoever gives that has milliwatts in mind, or the power limit.
	if v := *w.Watts; math.IsNaN(v) || v < 0 || v > 1000 {
		return fmt.Errorf("gpu.idle_watts: %v: give auto, or from 0 to 1000 such as 50", v)
	}
	return nil
}
