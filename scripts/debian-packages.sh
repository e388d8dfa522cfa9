# Fetches Debian packages of other releases than the machine's into a tree of their own. Sourced by the scripts that
# need one; sets -eu is theirs.
#
# The packages come through apt-get with the machine's own settings (mirror, proxy, credentials); apt-get checks their
# signatures. Nothing is installed on the machine. A tree is one /usr, and its programs run with it in place of the
# machine's, in a mount namespace of their own.
#
#   ANYAMQP_CACHE   the cache folder; ~/.cache/anyamqp if it is not set
#   DEBIAN_MIRROR   where Debian's packages are; otherwise the machine's own mirror, or http://deb.debian.org/debian
# shellcheck shell=sh

cache=${ANYAMQP_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/anyamqp}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

fail() {
    printf 'error: %s\n' "$@" >&2
    exit 1
}

# check_machine WHAT INSTEAD: refuse a machine that cannot fetch or run a tree, and tell what to do instead.
check_machine() {
    for tool in apt-get apt-cache dpkg-deb tar unshare mount; do
        command -v $tool >/dev/null || fail \
            "$1 is fetched as Debian packages, which takes $tool; this machine has none." "$2"
    done
    [ -r $keyring ] || fail "there is no $keyring to check Debian's signatures with." \
        "Install it: apt-get install debian-archive-keyring"
    # shellcheck disable=SC2046 # no option or one
    unshare $(unshare_options) true 2>/dev/null || fail \
        "$1 runs in a mount namespace of its own, and unshare may not make one here." \
        "Run as root (in a container: with CAP_SYS_ADMIN), or allow unprivileged user namespaces."
}

unshare_options() {
    if [ "$(id -u)" -eq 0 ]; then
        echo --mount
    else
        echo --mount --map-root-user
    fi
}

# The mirror that the machine's apt uses for Debian itself; nothing on a machine with another distribution.
machine_mirror() {
    # shellcheck disable=SC2016 # apt-get expands it
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' 2>/dev/null | head -n 1
}

# begin_fetch NAME: make $work, with $work/root for the packages and $work/tree for the tree; it goes when the shell ends.
begin_fetch() {
    mirror=${DEBIAN_MIRROR:-$(machine_mirror)}
    mirror=${mirror:-http://deb.debian.org/debian}
    mkdir -p "$cache"
    find "$cache" -maxdepth 1 -name '.fetching-*' -mmin +60 -exec rm -rf {} + # of runs that were killed
    work=$(mktemp -d "$cache/.fetching-$1.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root" "$work/tree"
    : >"$work/status"
}

# apt SUITE TOOL ...: apt-get or apt-cache with package lists and a cache in $work. The machine's apt.conf holds.
apt() {
    suite=$1
    tool=$2
    shift 2
    "$tool" -q \
        -o Dir::State="$work/state" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= \
        -o Dir::Etc::sourcelist="$work/$suite.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root \
        -o APT::Update::Error-Mode=any -o APT::Install-Recommends=false "$@"
}

# offered SUITE PACKAGE: read the suite's package lists, and print the version that it has.
offered() {
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$work/$1.list"
    apt "$1" apt-get update >"$work/out" 2>&1 || { cat "$work/out" >&2; return 1; }
    apt "$1" apt-cache show --no-all-versions "$2" | sed -n 's/^Version: *//p' | grep .
}

# unpack SUITE PACKAGES...: download them with all they depend on, into $work/tree/usr.
unpack() {
    from=$1
    shift
    apt "$from" apt-get install -y --download-only "$@" >"$work/out" 2>&1 \
        || { cat "$work/out" >&2; fail "apt-get could not download $*; its output is above."; }
    for folder in bin sbin lib lib32 lib64 libx32; do
        mkdir -p "$work/root/usr/$folder"
        ln -s "usr/$folder" "$work/root/$folder"
    done
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" \
            | tar -x -C "$work/root" --keep-directory-symlink --no-same-owner
    done
    mv "$work/root/usr" "$work/tree/usr"
}

# end_fetch TREE: the rename makes the tree appear as a whole. Another run may have been faster.
end_fetch() {
    mv -T "$work/tree" "$1" 2>/dev/null || [ -d "$1" ]
    rm -rf "$work"
    trap - EXIT HUP INT TERM
}
