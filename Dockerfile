# flyball in a container: non-root, read-only root, glibc (NVIDIA's library is loaded at run time and needs it).
#
#   docker build -t flyball .
#   docker run --rm --read-only -p 9838:9838 -p 8090:8090 \
#     -v "$PWD/flyball.yml:/etc/flyball/flyball.yml:ro" -v flyball-data:/var/lib/flyball flyball
#
# Not built yet: it was written where no container engine runs.

FROM golang:1.26-bookworm AS build
WORKDIR /src
# The modules are a layer of their own, so that a change of code does not fetch them again.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG REVISION=unknown
# No -z now (a hardening flag of some distributions): go-nvml relies on lazy binding, and the program would end at once.
RUN CGO_ENABLED=1 CGO_CFLAGS="-O2 -g -Wno-deprecated-declarations" go build \
    -ldflags "-s -w -X github.com/prometheus/common/version.Version=$(cat cmd/flyball/VERSION) -X github.com/prometheus/common/version.Revision=${REVISION}" \
    -o /out/flyball ./cmd/flyball \
 && mkdir -p /out/data

FROM debian:bookworm-slim
COPY --from=build /out/flyball /usr/local/bin/flyball
COPY --from=build --chown=65532:65532 /out/data /var/lib/flyball
COPY LICENSE NOTICE /usr/share/doc/flyball/
USER 65532:65532
VOLUME /var/lib/flyball
EXPOSE 9838 8090
ENTRYPOINT ["/usr/local/bin/flyball"]
# In a container of its own, loopback reaches nobody: what may reach these ports is for the container's network to say.
CMD ["run", "--config.file=/etc/flyball/flyball.yml", "--storage.path=/var/lib/flyball", \
     "--web.listen-address=0.0.0.0:9838", "--batchproxy.listen-address=0.0.0.0:8090"]
