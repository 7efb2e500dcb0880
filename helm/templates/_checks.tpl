{{- /* What contradicts itself is refused, with what came and what was wanted. */}}
{{- define "vigil.check" -}}
{{- $v := .Values -}}
{{- if and $v.autoscaling.enabled $v.keda.enabled -}}
{{- fail "autoscaling.enabled and keda.enabled: two autoscalers would fight over the same pods; enable one" -}}
{{- end -}}
{{- if and (not $v.state.url) (not $v.state.existingSecret) (not $v.valkey.trial.enabled) -}}
{{- fail "state.url is empty: give memory:, redis://..., or state.existingSecret" -}}
{{- end -}}
{{- if and $v.tls.secret $v.knative.enabled -}}
{{- fail "knative.enabled with tls.secret: Knative speaks TLS itself, and plainly with the pods" -}}
{{- end -}}
{{- if and $v.state.existingSecret (not (has $v.state.url (list "memory:" ""))) -}}
{{- fail "state.url and state.existingSecret: both say where state lies; give one" -}}
{{- end -}}
{{- if and $v.valkey.trial.enabled (or $v.state.existingSecret (not (has $v.state.url (list "memory:" "")))) -}}
{{- fail "valkey.trial.enabled with state.url or state.existingSecret: both say where state lies; give one" -}}
{{- end -}}
{{- if and $v.kafka.trial.enabled $v.kafka.brokers -}}
{{- fail (printf "kafka.trial.enabled with kafka.brokers=%s: both say where Kafka is; give one" $v.kafka.brokers) -}}
{{- end -}}
{{- if and $v.stream.enabled (not (include "vigil.brokers" .)) -}}
{{- fail "stream.enabled without a broker: give kafka.brokers, or kafka.trial.enabled for trying it" -}}
{{- end -}}
{{- $least := addf $v.pod.preStopS (default 10 $v.settings.drain_s) 10 -}}
{{- if lt (float64 $v.pod.terminationGracePeriodS) $least -}}
{{- fail (printf "pod.terminationGracePeriodS=%v: the pause pod.preStopS, the drain settings.drain_s and 10 s for the state take up to %v s" $v.pod.terminationGracePeriodS $least) -}}
{{- end -}}
{{- if and (gt (int64 $v.settings.records_max_bytes) 1610612736) (ne (toString $v.settings.records) "false") (not (include "vigil.claimed" .)) -}}
{{- fail (printf "settings.records_max_bytes=%d: without a volume of its own a pod has 2Gi for what it writes to /state; at most 1610612736 of them for records" (int64 $v.settings.records_max_bytes)) -}}
{{- end -}}
{{- include "vigil.checkMemory" . -}}
{{- include "vigil.checkScaling" . -}}
{{- end }}

{{- /* Memory belongs to one process: what would make a second one is refused. */}}
{{- define "vigil.checkMemory" -}}
{{- if include "vigil.inMemory" . -}}
{{- $v := .Values -}}
{{- $many := list -}}
{{- if gt (int $v.serve.replicas) 1 }}{{ $many = append $many (printf "serve.replicas=%v" $v.serve.replicas) }}{{ end -}}
{{- if gt (int $v.settings.workers) 1 }}{{ $many = append $many (printf "settings.workers=%v" $v.settings.workers) }}{{ end -}}
{{- if $v.autoscaling.enabled }}{{ $many = append $many "autoscaling.enabled" }}{{ end -}}
{{- if $v.canary.enabled }}{{ $many = append $many "canary.enabled" }}{{ end -}}
{{- if $v.knative.enabled }}{{ $many = append $many "knative.enabled" }}{{ end -}}
{{- if and $v.keda.enabled $v.keda.serve.enabled }}{{ $many = append $many "keda.serve.enabled" }}{{ end -}}
{{- if $v.stream.enabled -}}
{{- if gt (int $v.stream.replicas) 1 }}{{ $many = append $many (printf "stream.replicas=%v" $v.stream.replicas) }}{{ end -}}
{{- if and $v.keda.enabled $v.keda.stream.enabled (gt (int $v.keda.stream.maxReplicas) 1) }}{{ $many = append $many (printf "keda.stream.maxReplicas=%v" $v.keda.stream.maxReplicas) }}{{ end -}}
{{- end -}}
{{- if $many -}}
{{- fail (printf "%s with state.url=memory: - memory belongs to one process, so several would each know a part of the events; share it by state.url=redis://... or state.existingSecret (valkey.trial.enabled for trying it)" (join ", " $many)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "vigil.checkScaling" -}}
{{- $v := .Values -}}
{{- if and $v.keda.enabled $v.keda.serve.enabled (not $v.keda.prometheusUrl) (not $v.knative.enabled) -}}
{{- fail "keda.serve.enabled without keda.prometheusUrl: p99 and queue are read there" -}}
{{- end -}}
{{- if and $v.canary.enabled (eq $v.canary.by "route") (not (or $v.gateway.http.enabled $v.gateway.grpc.enabled)) -}}
{{- fail "canary.by=route without gateway.http.enabled or gateway.grpc.enabled: only routes can weigh; take canary.by=replicas" -}}
{{- end -}}
{{- if and (or $v.gateway.http.enabled $v.gateway.grpc.enabled) (not $v.gateway.parentRefs) -}}
{{- fail "gateway.http.enabled or gateway.grpc.enabled without gateway.parentRefs: a route attaches to a Gateway" -}}
{{- end -}}
{{- if $v.knative.enabled -}}
{{- $other := list -}}
{{- if $v.autoscaling.enabled }}{{ $other = append $other "autoscaling.enabled" }}{{ end -}}
{{- if $v.canary.enabled }}{{ $other = append $other "canary.enabled" }}{{ end -}}
{{- if or $v.ingress.http.enabled $v.ingress.grpc.enabled }}{{ $other = append $other "ingress" }}{{ end -}}
{{- if or $v.gateway.http.enabled $v.gateway.grpc.enabled }}{{ $other = append $other "gateway" }}{{ end -}}
{{- if $other -}}
{{- fail (printf "knative.enabled with %s: Knative scales, splits and routes by itself" (join ", " $other)) -}}
{{- end -}}
{{- end -}}
{{- end }}
