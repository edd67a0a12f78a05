# What the scripts share: finding, installing or building what they need, and
# saying so. To be sourced; $root is the repository, $self the script's name.
# shellcheck shell=bash

say() { echo "$self: $*"; }
die() { echo "$self: $*" >&2; exit 1; }

as_root() { [ "$(id -u)" = 0 ]; }

# need_go finds a Go that is new enough for go.mod, or ends.
need_go() {
	local want have
	want=$(sed -n 's/^go //p' "$root/go.mod")
	command -v go >/dev/null || [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin
	command -v go >/dev/null || die "Go is not installed; get ${want%.0} or later from https://go.dev/dl"
	# In the repository Go 1.21 and later fetch the version that go.mod asks for.
	have=$(cd "$root" && go env GOVERSION 2>/dev/null) || have=$(cd / && GOTOOLCHAIN=local go env GOVERSION)
	[ "$(printf '%s\n' "$want" "${have#go}" | sort -V | head -n 1)" = "$want" ] ||
		die "$(command -v go) is ${have:-of an unknown version}, too old; get ${want%.0} or later from https://go.dev/dl"
}

# find_postgres sets PGBIN to the programs of the newest PostgreSQL that is
# supported, of Debian's layout or on the PATH.
find_postgres() {
	local v
	if [ -n "${PGBIN:-}" ]; then
		[ -x "$PGBIN/initdb" ] || die "there is no initdb in PGBIN=$PGBIN"
		return 0
	fi
	for v in 18 17 16 15 14 13; do
		if [ -x "/usr/lib/postgresql/$v/bin/initdb" ]; then
			PGBIN=/usr/lib/postgresql/$v/bin
			return 0
		fi
	done
	command -v initdb >/dev/null && command -v postgres >/dev/null || return 1
	v=$(postgres -V | sed -E 's/[^0-9]*([0-9]+).*/\1/')
	[ "$v" -ge 13 ] && [ "$v" -le 18 ] || return 1
	PGBIN=$(dirname "$(command -v initdb)")
}

# need installs what is missing of: cc (a C compiler, which the race detector
# needs), postgres, network (what makes and cuts networks). Who isn't root is
# told what to install.
need() {
	local what packages=()
	for what in "$@"; do
		case $what in
		cc) command -v gcc >/dev/null || command -v cc >/dev/null || packages+=(gcc libc6-dev) ;;
		postgres) find_postgres || packages+=(postgresql) ;;
		network)
			# An ordinary user does not look into /usr/sbin.
			PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null || packages+=(iproute2)
			PATH=$PATH:/usr/sbin:/sbin command -v nft >/dev/null || packages+=(nftables)
			;;
		esac
	done
	[ ${#packages[@]} -gt 0 ] || return 0
	command -v apt-get >/dev/null || die "missing, and there is no apt-get here to install it: ${packages[*]}"
	as_root || die "missing: ${packages[*]}; install with:  sudo apt-get install ${packages[*]}"
	say "installing from Debian: ${packages[*]}"
	local own=/etc/postgresql-common/createcluster.conf
	if [[ " ${packages[*]} " = *" postgresql "* && ! -e $own ]]; then
		# Debian would make and start a cluster of its own, which nobody here asked for.
		say "$own: create_main_cluster = false, so that no other cluster is started"
		mkdir -p "$(dirname "$own")"
		echo "create_main_cluster = false" >"$own"
	fi
	local log
	log=$(mktemp /tmp/stolon-apt.XXXXXX)
	if ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"; } </dev/null >"$log" 2>&1; then
		tail -n 5 "$log" >&2
		die "apt-get failed to install ${packages[*]}; its log is $log"
	fi
	rm -f "$log"
	[[ " $* " != *" postgres "* ]] || find_postgres || die "apt-get installed no PostgreSQL of a supported version (13 to 18)"
}

# need_etcd builds etcd, as a pinned Go tool, into .test/bin, and sets ETCD_BIN.
need_etcd() {
	[ -z "${ETCD_BIN:-}" ] || return 0
	ETCD_BIN=$root/.test/bin/etcd
	local stamp
	stamp=$(cksum <"$root/tests/tools/etcd/go.sum")
	if [ ! -x "$ETCD_BIN" ] || [ "$(cat "$ETCD_BIN.stamp" 2>/dev/null)" != "$stamp" ]; then
		say "building etcd into .test/bin (once, a minute or two)"
		mkdir -p "$root/.test/bin"
		(cd "$root/tests/tools/etcd" && CGO_ENABLED=0 go build -buildvcs=false -o "$ETCD_BIN" go.etcd.io/etcd/server/v3)
		echo "$stamp" >"$ETCD_BIN.stamp"
	fi
}

# apt_of sets own to the options of an apt-get that knows only the Debian suite
# $1 and has a state of its own in $2, in which nothing is installed.
apt_of() {
	local mirror
	mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | head -n 1)
	[ -n "$mirror" ] || { echo "apt is configured with no mirror of Debian"; return 1; }
	mkdir -p "$2/lists/partial" "$2/cache/archives/partial"
	: >"$2/status"
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" >"$2/sources.list"
	own=(-q -o "Dir::State=$2" -o "Dir::State::status=$2/status" -o "Dir::Cache=$2/cache"
		-o "Dir::Etc::sourcelist=$2/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=-
		-o APT::Sandbox::User=)
	apt-get "${own[@]}" update
}

# unpack_program unpacks the package $1 of the Debian suite $2 into .test/$3.
unpack_program() {
	local dir=$root/.test/$3
	rm -rf "$dir" "$dir.new"
	mkdir -p "$dir.new/apt"
	if ! (
		apt_of "$2" "$dir.new/apt" && cd "$dir.new/apt" && apt-get "${own[@]}" download "$1" &&
			dpkg-deb -x "$1"*.deb "$dir.new"
	) >"$dir.log" 2>&1; then
		tail -n 5 "$dir.log" >&2
		return 1
	fi
	rm -rf "$dir.new/apt" "$dir.log"
	mv "$dir.new" "$dir"
}

# need_consul sets CONSUL_BIN: the consul that is installed, or that of Debian
# bullseye, the last one with a consul, unpacked into .test/consul.
need_consul() {
	[ -z "${CONSUL_BIN:-}" ] || return 0
	if CONSUL_BIN=$(command -v consul); then return 0; fi
	CONSUL_BIN=$root/.test/consul/usr/bin/consul
	[ ! -x "$CONSUL_BIN" ] || return 0
	say "fetching Consul 1.8 of Debian bullseye into .test/consul (once, 15 MB)"
	unpack_program consul bullseye consul || die "Consul could not be fetched; the log is $root/.test/consul.log. Set CONSUL_BIN to one"
}

# need_etcd34 sets ETCD_BIN to the etcd 3.4 of Debian bookworm, unpacked into
# .test/etcd34.
need_etcd34() {
	ETCD_BIN=$root/.test/etcd34/usr/bin/etcd
	[ ! -x "$ETCD_BIN" ] || return 0
	say "fetching etcd 3.4 of Debian bookworm into .test/etcd34 (once, 10 MB)"
	unpack_program etcd-server bookworm etcd34 || die "etcd 3.4 could not be fetched; the log is $root/.test/etcd34.log. With one of your own: ETCD_BIN=... ./test integration"
}

# need_user makes sure that $1 exists, to run PostgreSQL as, when we are root.
need_user() {
	id -u "$1" >/dev/null 2>&1 && return 0
	say "making user $1, because PostgreSQL refuses to run as root"
	useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$1"
}

# need_exact_go sets EXACT to the flag that builds a program on a runtime
# without dice of its own, for the simulator: with virtual time Go picks at
# random among the ready cases of a select and among the timers of one instant,
# and takes the processor away by real time. With dice that each run throws alike,
# the same seed is the same run. EXACT stays empty, and that is said, where this
# Go's runtime is not the one that was looked at.
need_exact_go() {
	local dir=$root/.test/exact runtime
	runtime=$(go env GOROOT)/src/runtime
	EXACT=
	mkdir -p "$dir"
	sed 's|^\t\tj := cheaprandn(uint32(norder + 1))$|\t\tj := cheaprandn(uint32(norder + 1))\n\t\tif gp.bubble != nil {\n\t\t\tgp.bubble.dice = gp.bubble.dice*6364136223846793005 + 1442695040888963407\n\t\t\tj = uint32(gp.bubble.dice>>33) % uint32(norder+1)\n\t\t}|' \
		"$runtime/select.go" >"$dir/select.go"
	sed 's|^type synctestBubble struct {$|&\n\tdice uint64|' "$runtime/synctest.go" >"$dir/synctest.go"
	sed 's|^\t\t\tt.rand = cheaprand()$|\t\t\tts.seq++\n\t\t\tt.rand = ts.seq|; s|^type timers struct {$|&\n\tseq uint32 // counts the timers that were started|' \
		"$runtime/time.go" >"$dir/time.go"
	sed 's|^const forcePreemptNS = .*|const forcePreemptNS = 1 << 60|' "$runtime/proc.go" >"$dir/proc.go"
	if ! grep -q 'gp.bubble.dice' "$dir/select.go" || ! grep -q 'dice uint64' "$dir/synctest.go" || ! grep -q 'seq uint32' "$dir/time.go" || ! grep -q 't.rand = ts.seq' "$dir/time.go" || ! grep -q 'forcePreemptNS = 1 << 60' "$dir/proc.go"; then
		say "$(go env GOVERSION) is unknown to need_exact_go in tests/setup/lib.sh: one simulated seed in a hundred will not replay exactly"
		return 0
	fi
	printf '{"Replace": {"%s": "%s", "%s": "%s", "%s": "%s", "%s": "%s"}}\n' \
		"$runtime/select.go" "$dir/select.go" "$runtime/synctest.go" "$dir/synctest.go" "$runtime/time.go" "$dir/time.go" "$runtime/proc.go" "$dir/proc.go" >"$dir/overlay.json"
	EXACT=-overlay=$dir/overlay.json
}
