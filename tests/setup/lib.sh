# What the scripts share: finding or installing what they need. To be sourced;
# $root is the repository.

say() { echo "$self: $*"; }
die() { echo "$self: $*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ]; }

need_go() {
	command -v go >/dev/null || [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || die "Go is not installed; get 1.26 or later from https://go.dev/dl"
}

# find_postgres sets PGBIN to the newest supported PostgreSQL's programs.
find_postgres() {
	[ -z "${PGBIN:-}" ] || { [ -x "$PGBIN/initdb" ] || die "there is no initdb in PGBIN=$PGBIN"; return 0; }
	local v
	for v in 18 17 16 15 14 13; do
		if [ -x /usr/lib/postgresql/$v/bin/initdb ]; then
			PGBIN=/usr/lib/postgresql/$v/bin
			return 0
		fi
	done
	return 1
}

# need_postgres installs PostgreSQL from Debian where it is missing.
need_postgres() {
	find_postgres && return 0
	as_root || die "PostgreSQL is missing; install it with:  sudo apt-get install postgresql"
	say "installing PostgreSQL from Debian"
	apt-get update -q >/dev/null
	# Debian would make and start a cluster of its own, which nobody here asked for.
	mkdir -p /etc/postgresql-common
	[ -e /etc/postgresql-common/createcluster.conf ] || echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q postgresql >/dev/null
	find_postgres || die "apt-get installed no PostgreSQL of a supported version (13 to 18)"
}

# need_cc installs a C compiler, which the race detector needs.
need_cc() {
	command -v gcc >/dev/null || command -v cc >/dev/null && return 0
	as_root || die "a C compiler is missing, which the race detector needs; install it with:  sudo apt-get install gcc libc6-dev"
	say "installing a C compiler from Debian, for the race detector"
	apt-get update -q >/dev/null
	DEBIAN_FRONTEND=noninteractive apt-get install -y -q gcc libc6-dev >/dev/null
}

# need_etcd builds etcd, as a pinned Go tool, into .test/bin, and sets ETCD_BIN.
need_etcd() {
	[ -z "${ETCD_BIN:-}" ] || return 0
	ETCD_BIN=$root/.test/bin/etcd
	local stamp
	stamp=$(cat "$root/tests/tools/etcd/go.sum" | cksum)
	if [ ! -x "$ETCD_BIN" ] || [ "$(cat "$ETCD_BIN.stamp" 2>/dev/null)" != "$stamp" ]; then
		say "building etcd (once, about a minute)"
		mkdir -p "$root/.test/bin"
		(cd "$root/tests/tools/etcd" && CGO_ENABLED=0 go build -buildvcs=false -o "$ETCD_BIN" go.etcd.io/etcd/server/v3)
		echo "$stamp" >"$ETCD_BIN.stamp"
	fi
}

# need_user makes sure that $1 exists, to run PostgreSQL as, when we are root.
need_user() {
	id -u "$1" >/dev/null 2>&1 && return 0
	say "making user $1, because PostgreSQL refuses to run as root"
	useradd --system --no-create-home --shell /usr/sbin/nologin "$1"
}
