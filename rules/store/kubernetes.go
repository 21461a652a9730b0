//go:build !nokubernetes

package store

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"

	commonconfig "github.com/prometheus/common/config"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/kubernetes" // kubernetes_sd_configs
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// discoveries are the kinds of discovery of this binary, as errors name them.
const discoveries = "static_configs, file_sd_configs, http_sd_configs or kubernetes_sd_configs"

// kubernetesForms are the types of the items of lists that are there with Kubernetes alone, by their keys.
func kubernetesForms() map[string]reflect.Type {
	return map[string]reflect.Type{"kubernetes_sd_configs": reflect.TypeFor[kubernetes.SDConfig]()}
}

// withoutKubernetes says why there is no discovery by Kubernetes; empty where there is.
const withoutKubernetes = ""

// checkKubernetes says what of the files that a discovery needs cannot be read, if it is one by Kubernetes, and where it is to
// run here also whether there is a pod's service account for one that names no cluster. It asks no cluster. Errors begin with the
// key of the field, where it is one's, and have nothing of what is in a kubeconfig.
func checkKubernetes(sd discovery.Config, here bool) error {
	c, ok := sd.(*kubernetes.SDConfig)
	if !ok {
		return nil
	}
	switch {
	case c.KubeConfig != "":
		loaded, err := clientcmd.LoadFromFile(c.KubeConfig)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("kubeconfig_file: %w", err)
		case err != nil:
			return fmt.Errorf("kubeconfig_file: %s is not one: kubectl config view --kubeconfig=%[1]s says why", c.KubeConfig)
		}
		if _, err := clientcmd.NewDefaultClientConfig(*loaded, &clientcmd.ConfigOverrides{}).ClientConfig(); err != nil {
			return fmt.Errorf("kubeconfig_file: the current-context %q of %s is not usable: kubectl --kubeconfig=%[2]s version says why",
				loaded.CurrentContext, c.KubeConfig)
		}
	case c.APIServer.URL != nil:
		_, err := commonconfig.NewClientFromConfig(c.HTTPClientConfig, "check")
		return err
	case here:
		_, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return errors.New("this process does not run in a pod: give kubeconfig_file or api_server")
		}
		if err != nil {
			return fmt.Errorf("the pod's service account: %w", err)
		}
	}
	return nil
}
