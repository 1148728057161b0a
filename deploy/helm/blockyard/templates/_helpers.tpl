{{- define "blockyard.name" -}}
{{- if contains "blockyard" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-blockyard{{ end -}}
{{- end }}

{{- define "blockyard.selector" -}}
app.kubernetes.io/name: blockyard
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "blockyard.labels" -}}
{{ include "blockyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "blockyard.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "blockyard.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end -}}
{{- end }}

{{- define "blockyard.image" -}}
{{- if .Values.image.digest }}{{ .Values.image.repository }}@{{ .Values.image.digest }}{{ else }}{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "blockyard.pod" -}}
metadata:
  labels:
    {{- include "blockyard.labels" . | nindent 4 }}
  {{- with .Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "blockyard.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ add .Values.drainGraceS 20 }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  containers:
    - name: blockyard
      image: {{ include "blockyard.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve]
      env:
        - name: BLOCKYARD_LISTEN
          value: "0.0.0.0:7350"
        - name: BLOCKYARD_METRICS_LISTEN
          value: "0.0.0.0:9350"
        - name: BLOCKYARD_TLS_CERT
          value: /etc/blockyard/tls/tls.crt
        - name: BLOCKYARD_TLS_KEY
          value: /etc/blockyard/tls/tls.key
        - name: BLOCKYARD_AUTH_FILE
          value: /etc/blockyard/auth/auth.toml
        - name: BLOCKYARD_ADMIN_SOCKET
          value: /run/blockyard/admin.sock
        - name: BLOCKYARD_DRAIN_GRACE_S
          value: {{ .Values.drainGraceS | quote }}
        {{- if .Values.database.secretName }}
        - name: BLOCKYARD_DATABASE
          valueFrom:
            secretKeyRef:
              name: {{ .Values.database.secretName }}
              key: url
        {{- end }}
        {{- range $name, $value := .Values.settings }}
        - name: BLOCKYARD_{{ upper $name }}
          value: {{ $value | quote }}
        {{- end }}
      ports:
        - name: grpc
          containerPort: 7350
        - name: metrics
          containerPort: 9350
      startupProbe:  # a migration or a lock of an older server may take minutes
        exec:
          command: [python3, /opt/blockyard/health.py, --live]
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 120
      readinessProbe:
        exec:
          command: [python3, /opt/blockyard/health.py]
        periodSeconds: 5
        timeoutSeconds: 5
      livenessProbe:  # not whether the database is there: a restart would not bring it back
        exec:
          command: [python3, /opt/blockyard/health.py, --live]
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .Values.preStopSleepS }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - name: tls
          mountPath: /etc/blockyard/tls
          readOnly: true
        - name: auth
          mountPath: /etc/blockyard/auth
          readOnly: true
        - name: run
          mountPath: /run/blockyard
        - name: tmp
          mountPath: /tmp
        {{- if not .Values.database.secretName }}
        - name: data
          mountPath: /var/lib/blockyard
        {{- end }}
  volumes:
    - name: tls
      secret:
        secretName: {{ required "tls.secretName is needed: a Secret with tls.crt and tls.key" .Values.tls.secretName }}
        defaultMode: 0440
    - name: auth
      secret:
        secretName: {{ required "auth.secretName is needed: a Secret with auth.toml" .Values.auth.secretName }}
        defaultMode: 0440
    - name: run
      emptyDir: {}
    - name: tmp
      emptyDir: {}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
