# The four programs beside Debian's PostgreSQL 15, for an ordinary user.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY . .
RUN ./build

FROM debian:bookworm-slim
RUN apt-get update \
 && mkdir -p /etc/postgresql-common \
 && echo "create_main_cluster = false" > /etc/postgresql-common/createcluster.conf \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends postgresql-15 ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 1500 stolon \
 && mkdir /stolon-data && chown stolon: /stolon-data
COPY --from=build /src/bin/ /usr/local/bin/
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
USER stolon
VOLUME /stolon-data
