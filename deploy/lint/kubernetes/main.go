// Command kubernetes checks the manifests under deploy/kubernetes: every
// document must decode, with no unknown field, into the type that the API server
// or TiDB Operator has for it.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// tikvGroup is what we use of core.pingcap.com/v1alpha1 TiKVGroup. The Pod
// overlay is Kubernetes' own type, as in the operator.
type tikvGroup struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Cluster  struct{ Name string } `json:"cluster"`
		Replicas *int32                `json:"replicas"`
		Template struct {
			Spec struct {
				Version string `json:"version"`
				Config  string `json:"config,omitempty"`
				Volumes []struct {
					Name   string `json:"name"`
					Mounts []struct {
						Type string `json:"type"`
					} `json:"mounts"`
					Storage string `json:"storage"`
				} `json:"volumes"`
				Overlay struct {
					Pod struct {
						Metadata metav1.ObjectMeta `json:"metadata"`
						// A pointer: the operator dereferences it, so it must be
						// there whenever a topology is set.
						Spec *corev1.PodSpec `json:"spec"`
					} `json:"pod"`
				} `json:"overlay"`
			} `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

func main() {
	failed := len(os.Args) < 2
	for _, path := range os.Args[1:] {
		n, err := check(path)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
			continue
		}
		fmt.Printf("%s: %d documents are well-formed\n", path, n)
	}
	if failed {
		os.Exit(1)
	}
}

func check(path string) (n int, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	docs := utilyaml.NewDocumentDecoder(io.NopCloser(bytes.NewReader(data)))
	defer func() { err = errors.Join(err, docs.Close()) }()
	for {
		doc := make([]byte, len(data)+1)
		size, err := docs.Read(doc)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if err := decode(doc[:size]); err != nil {
			return n, fmt.Errorf("document %d: %w", n+1, err)
		}
		n++
	}
}

func decode(doc []byte) error {
	var meta metav1.TypeMeta
	if err := yaml.Unmarshal(doc, &meta); err != nil {
		return err
	}
	switch kind := meta.APIVersion + " " + meta.Kind; kind {
	case "v1 ServiceAccount":
		return yaml.UnmarshalStrict(doc, new(corev1.ServiceAccount))
	case "v1 ConfigMap":
		return yaml.UnmarshalStrict(doc, new(corev1.ConfigMap))
	case "core.pingcap.com/v1alpha1 TiKVGroup":
		group := new(tikvGroup)
		if err := yaml.UnmarshalStrict(doc, group); err != nil {
			return err
		}
		return sidecar(group.Spec.Template.Spec.Overlay.Pod.Spec)
	default:
		return fmt.Errorf("no type is known for %s", kind)
	}
}

// sidecar holds what our sidecar must be: native, and without a readiness probe.
func sidecar(pod *corev1.PodSpec) error {
	if pod == nil {
		return errors.New("overlay.pod has no spec")
	}
	volumes := map[string]bool{"ti-vol-audit": true} // the operator's name for volume audit
	for _, v := range pod.Volumes {
		volumes[v.Name] = true
	}
	found := false
	for _, c := range pod.InitContainers {
		for _, m := range c.VolumeMounts {
			if !volumes[m.Name] {
				return fmt.Errorf("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
		}
		if c.Name != "keybroker" {
			continue
		}
		found = true
		switch {
		case c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways:
			return fmt.Errorf("container %s is no native sidecar: restartPolicy is not Always", c.Name)
		case c.ReadinessProbe != nil:
			return fmt.Errorf("container %s has a readinessProbe: a KMS outage would stop a rolling restart", c.Name)
		case c.StartupProbe == nil:
			return fmt.Errorf("container %s has no startupProbe: TiKV would not wait for it", c.Name)
		}
	}
	if !found {
		return errors.New("there is no container keybroker")
	}
	return nil
}
