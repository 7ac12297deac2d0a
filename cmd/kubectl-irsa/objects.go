package main

import (
	"regexp"
	"slices"
	"time"
)

// The fields of Kubernetes' objects that are read here.

type metadata struct {
	Name              string            `json:"name"`
	Namespace         string            `json:"namespace"`
	UID               string            `json:"uid"`
	CreationTimestamp time.Time         `json:"creationTimestamp"`
	DeletionTimestamp *time.Time        `json:"deletionTimestamp"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	OwnerReferences   []struct {
		Kind       string `json:"kind"`
		Name       string `json:"name"`
		UID        string `json:"uid"`
		Controller bool   `json:"controller"`
	} `json:"ownerReferences"`
	ManagedFields []struct {
		Time     time.Time `json:"time"`
		FieldsV1 struct {
			Metadata struct {
				Annotations map[string]any `json:"f:annotations"`
			} `json:"f:metadata"`
		} `json:"fieldsV1"`
	} `json:"managedFields"`
}

// annotatedAt returns when an annotation was last set, or zero if that is not known.
func (m *metadata) annotatedAt(name string) (at time.Time) {
	for _, manager := range m.ManagedFields {
		if _, ok := manager.FieldsV1.Metadata.Annotations["f:"+name]; ok && manager.Time.After(at) {
			at = manager.Time
		}
	}
	return at
}

// object is whatever has no more than metadata that is of interest.
type object struct {
	Metadata metadata `json:"metadata"`
}

type list[T any] struct {
	Items []T `json:"items"`
}

type pod struct {
	Metadata metadata  `json:"metadata"`
	Spec     podSpec   `json:"spec"`
	Status   podStatus `json:"status"`
}

type podSpec struct {
	InitContainers     []container       `json:"initContainers"`
	Containers         []container       `json:"containers"`
	Volumes            []volume          `json:"volumes"`
	ServiceAccountName string            `json:"serviceAccountName"`
	NodeName           string            `json:"nodeName"`
	NodeSelector       map[string]string `json:"nodeSelector"`
	HostNetwork        bool              `json:"hostNetwork"`
	OS                 struct {
		Name string `json:"name"`
	} `json:"os"`
}

// containers are all, in the order in which they start.
func (s *podSpec) containers() []container { return slices.Concat(s.InitContainers, s.Containers) }

// container returns the container of this name, or nil.
func (s *podSpec) container(name string) *container {
	all := s.containers()
	if i := slices.IndexFunc(all, func(c container) bool { return c.Name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

type container struct {
	Name          string        `json:"name"`
	Image         string        `json:"image"`
	RestartPolicy string        `json:"restartPolicy"` // of an init container: Always makes it a sidecar
	Env           []environment `json:"env"`
	EnvFrom       []struct {
		ConfigMapRef *reference `json:"configMapRef"`
		SecretRef    *reference `json:"secretRef"`
	} `json:"envFrom"`
	VolumeMounts []struct {
		Name      string `json:"name"`
		MountPath string `json:"mountPath"`
		SubPath   string `json:"subPath"`
	} `json:"volumeMounts"`
}

type reference struct {
	Name string `json:"name"`
	Key  string `json:"key"`
}

// environment is a variable. Values of ConfigMaps and Secrets are never read.
type environment struct {
	Name      string `json:"name"`
	Value     string `json:"value"`
	ValueFrom *struct {
		ConfigMapKeyRef *reference `json:"configMapKeyRef"`
		SecretKeyRef    *reference `json:"secretKeyRef"`
		FieldRef        *struct {
			FieldPath string `json:"fieldPath"`
		} `json:"fieldRef"`
	} `json:"valueFrom"`
}

// variable returns a variable of the container, the last of its name as for the kubelet, or nil.
func (c *container) variable(name string) *environment {
	for i := len(c.Env) - 1; i >= 0; i-- {
		if c.Env[i].Name == name {
			return &c.Env[i]
		}
	}
	return nil
}

type volume struct {
	Name      string    `json:"name"`
	ConfigMap *keyFiles `json:"configMap"`
	Secret    *keyFiles `json:"secret"`
	Projected *struct {
		Sources []struct {
			ConfigMap           *keyFiles `json:"configMap"`
			Secret              *keyFiles `json:"secret"`
			ServiceAccountToken *struct {
				Audience string `json:"audience"`
				Path     string `json:"path"`
			} `json:"serviceAccountToken"`
		} `json:"sources"`
	} `json:"projected"`
}

// keyFiles are the files that are made from a ConfigMap or a Secret; without them, every key is one, and their names are not
// known here.
type keyFiles struct {
	Items []struct {
		Path string `json:"path"`
	} `json:"items"`
}

// files are the files of the volume that the Pod's spec names.
func (v *volume) files() (names []string) {
	add := func(of *keyFiles) {
		if of == nil {
			return
		}
		for _, item := range of.Items {
			names = append(names, item.Path)
		}
	}
	add(v.ConfigMap)
	add(v.Secret)
	if v.Projected != nil {
		for _, source := range v.Projected.Sources {
			add(source.ConfigMap)
			add(source.Secret)
			if token := source.ServiceAccountToken; token != nil {
				names = append(names, token.Path)
			}
		}
	}
	return names
}

type podStatus struct {
	Phase      string `json:"phase"`
	PodIP      string `json:"podIP"`
	HostIP     string `json:"hostIP"`
	Reason     string `json:"reason"`
	Message    string `json:"message"`
	Conditions []struct {
		Type    string `json:"type"`
		Status  string `json:"status"`
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"conditions"`
	InitContainerStatuses []containerStatus `json:"initContainerStatuses"`
	ContainerStatuses     []containerStatus `json:"containerStatuses"`
}

// container returns the status of a container, or nil.
func (s *podStatus) container(name string) *containerStatus {
	all := s.all()
	if i := slices.IndexFunc(all, func(c containerStatus) bool { return c.Name == name }); i >= 0 {
		return &all[i]
	}
	return nil
}

// all are the statuses of all containers, in the order in which they start.
func (s *podStatus) all() []containerStatus {
	return slices.Concat(s.InitContainerStatuses, s.ContainerStatuses)
}

// ready reports whether the Pod is ready, or has completed.
func (p *pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True" || p.Status.Phase == "Succeeded"
		}
	}
	return false
}

type containerStatus struct {
	Name         string         `json:"name"`
	Ready        bool           `json:"ready"`
	RestartCount int            `json:"restartCount"`
	State        containerState `json:"state"`
	LastState    containerState `json:"lastState"`
}

type containerState struct {
	Running *struct {
		StartedAt time.Time `json:"startedAt"`
	} `json:"running"`
	Waiting *struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"waiting"`
	Terminated *struct {
		ExitCode   int       `json:"exitCode"`
		Signal     int       `json:"signal"`
		Reason     string    `json:"reason"`
		Message    string    `json:"message"`
		FinishedAt time.Time `json:"finishedAt"`
	} `json:"terminated"`
}

// workload is what makes Pods.
type workload struct {
	Metadata metadata `json:"metadata"`
	Spec     struct {
		Replicas *int      `json:"replicas"`
		Selector *selector `json:"selector"`
		Template struct {
			Spec podSpec `json:"spec"`
		} `json:"template"`
	} `json:"spec"`
}

type selector struct {
	MatchLabels      map[string]string `json:"matchLabels"`
	MatchExpressions []struct {
		Key      string   `json:"key"`
		Operator string   `json:"operator"`
		Values   []string `json:"values"`
	} `json:"matchExpressions"`
}

type event struct {
	Metadata       metadata  `json:"metadata"`
	Reason         string    `json:"reason"`
	Message        string    `json:"message"`
	LastTimestamp  time.Time `json:"lastTimestamp"`
	EventTime      time.Time `json:"eventTime"`
	InvolvedObject struct {
		Kind string `json:"kind"`
		Name string `json:"name"`
	} `json:"involvedObject"`
}

type webhookConfiguration struct {
	Metadata metadata `json:"metadata"`
	Webhooks []struct {
		Name          string `json:"name"`
		FailurePolicy string `json:"failurePolicy"`
	} `json:"webhooks"`
}

// kubernetesName is the form of the names of Pods, namespaces and service accounts.
// https://kubernetes.io/docs/concepts/overview/working-with-objects/names/#dns-subdomain-names
func kubernetesName() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`) }

func validName(s string) bool { return len(s) <= 253 && kubernetesName().MatchString(s) }
