# syntax=docker/dockerfile:1

# The images of the project, for any platform Go builds for:
#
#   docker buildx build --target node --platform linux/amd64,linux/arm64 --build-arg VERSION=v0.1.0 -t ghcr.io/koi-net/koi-node:v0.1.0 .
#   docker buildx build --target operator ...                                                 -t ghcr.io/koi-net/koi-operator:v0.1.0 .
#
# hack/image assembles the same without an engine.

ARG GO_VERSION=1.26

# The compiler runs on the builder's own platform and cross-compiles.
FROM --platform=$BUILDPLATFORM golang:${GO_VERSION} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY api api
COPY cmd cmd
COPY controllers controllers
COPY node node
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/koi-node ./cmd/koi-operator

# Certificates, /etc/passwd and a user without rights; no shell, no package manager.
FROM gcr.io/distroless/static:nonroot AS base
ARG VERSION=dev
LABEL org.opencontainers.image.source="https://github.com/koi-net/koi-operator" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"
# Numeric, so that Kubernetes can tell it is not root.
USER 65532:65532

FROM base AS node
LABEL org.opencontainers.image.title="koi-node"
COPY --from=build /out/koi-node /koi-node
ENTRYPOINT ["/koi-node"]

FROM base AS operator
LABEL org.opencontainers.image.title="koi-operator"
COPY --from=build /out/koi-operator /koi-operator
ENTRYPOINT ["/koi-operator"]
