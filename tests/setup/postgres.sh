# PostgreSQL of other versions than this machine's, for the tests: unpacked
# from Debian's packages into .test/pgN, beside the libraries that they were
# built with. Nothing is installed and nobody has to be root. To be sourced
# after lib.sh.
# shellcheck shell=bash

# suite_of names the Debian suite that carries PostgreSQL $1.
suite_of() {
	case $1 in
	13) echo bullseye ;;
	15) echo bookworm ;;
	17) echo trixie ;;
	18) echo sid ;;
	*) die "the tests know PostgreSQL 13, 15, 17 and 18, not '$1'" ;;
	esac
}

# need_postgres sets PGBIN to the programs of PostgreSQL $1: those installed,
# or those in .test, which are fetched when they are missing.
need_postgres() {
	local suite dir tool
	suite=$(suite_of "$1")
	PGBIN=/usr/lib/postgresql/$1/bin
	[ ! -x "$PGBIN/initdb" ] || return 0
	dir=$root/.test/pg$1
	PGBIN=$dir/usr/lib/postgresql/$1/bin
	[ ! -e "$dir/ready" ] || return 0
	for tool in apt-get dpkg-deb; do
		command -v $tool >/dev/null || die "no $tool here to fetch PostgreSQL $1 with; install it and set PGBIN to its programs"
	done
	say "fetching PostgreSQL $1 of Debian $suite into .test/pg$1 (once, about 30 MB)"
	rm -rf "$dir.new"
	mkdir -p "$dir.new"
	if ! (set -e; unpack_postgres "$1" "$suite" "$dir.new") >"$dir.log" 2>&1; then
		tail -n 5 "$dir.log" >&2
		die "PostgreSQL $1 could not be fetched; the log is $dir.log. With it installed, set PGBIN to its programs"
	fi
	# Its programs name the directory that they lie in.
	rm -rf "$dir"
	mv "$dir.new" "$dir"
	link_postgres "$1" "$dir" >>"$dir.log" 2>&1 || die "PostgreSQL $1 does not run from $dir; the log is $dir.log"
	touch "$dir/ready"
	rm -f "$dir.log"
}

# unpack_postgres unpacks PostgreSQL $1 of suite $2 and what it needs into $3.
# apt-get is given a state of its own, in which nothing is installed.
unpack_postgres() {
	local version=$1 suite=$2 dir=$3 apt own packages package
	apt=$dir/apt
	mkdir -p "$apt/packages"
	apt_of "$suite" "$apt"
	# Libraries and PostgreSQL's own; not what only its maintainer scripts, its
	# just-in-time compiler and PL/Perl need.
	packages=$(apt-get "${own[@]}" -s --no-install-recommends install "postgresql-$version" patchelf | awk '$1 == "Inst" { print $2 }' |
		grep -E "^(lib.*|zlib1g|patchelf|postgresql-$version|postgresql-client-$version)\$" | grep -Ev -- '-perl$|^libperl|^libllvm|^libz3')
	# shellcheck disable=SC2086 # one word a package
	(cd "$apt/packages" && apt-get "${own[@]}" download $packages)
	for package in "$apt"/packages/*.deb; do
		dpkg-deb -x "$package" "$dir"
	done
	rm -rf "$apt" "$dir"/usr/lib/postgresql/"$version"/lib/{llvmjit.so,bitcode}
}

# link_postgres ties the programs of PostgreSQL $1 to the libraries beside them
# in $2. The keeper tells a postmaster by its program, so that can't be a script.
link_postgres() {
	local version=$1 dir=$2 loader libraries program
	loader=$(find "$dir"/lib* "$dir"/usr/lib* -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
	libraries=$(find "$dir"/lib "$dir"/usr/lib -name 'libc.so.6' -o -name 'libpq.so.5' 2>/dev/null | xargs -n 1 dirname | sort -u | paste -sd :)
	for program in "$dir/usr/lib/postgresql/$version"/bin/*; do
		[ "$(head -c 4 "$program")" = $'\177ELF' ] || continue
		# An old-style path: it serves the libraries of libraries too.
		"$loader" --library-path "$libraries" "$dir/usr/bin/patchelf" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$program" || return
	done
	"$dir/usr/lib/postgresql/$version/bin/postgres" -V
}
