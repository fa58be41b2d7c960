# Keeps the PostgreSQL servers of one test process: Debian's PostgreSQL and PgBouncer, as a user other than root, in a new folder. It reads
# commands from standard input, one a line, and answers each with its output and a line `end CODE`. At the end of the input, which
# comes at the latest when the test process dies, it ends what it started and removes the folder.
#
# Environment: KEEPER, this script; ROOM, the size of a disk for the servers' data, such as 128m (may be empty); SERVER_CERTIFICATE and
# SERVER_KEY, PEM texts (may be empty); PASSWORD, of the role `tollgate`.
# shellcheck shell=sh disable=SC2016
set -u
umask 022

# The disk is a tmpfs in a mount namespace, so that it goes with the last process. Inside /mnt is free for it.
mount_disk='mount -t tmpfs -o "size=$ROOM,mode=1777" tmpfs /mnt'
if [ -n "$ROOM" ] && [ -z "${DISK-}" ]; then
    export DISK=/mnt
    if [ "$(id -u)" = 0 ]; then
        exec unshare --mount sh -c "$mount_disk && "'exec sh -c "$KEEPER"'
    fi
    # A plain user mounts as root of a namespace, and is itself again in one below: PostgreSQL refuses to run as root.
    USER_ID=$(id -u) GROUP_ID=$(id -g)
    export USER_ID GROUP_ID
    exec unshare --map-root-user --mount sh -c "$mount_disk && "'exec unshare --map-user="$USER_ID" --map-group="$GROUP_ID" sh -c "$KEEPER"'
fi
if [ "$(id -u)" = 0 ]; then
    exec setpriv --reuid=postgres --regid=postgres --clear-groups sh -c "$KEEPER"
fi

# Memory, where there is enough.
base=${TMPDIR:-/tmp}
if [ -w /dev/shm ] && [ "$(df --output=avail -k /dev/shm | tail -1)" -gt 524288 ]; then base=/dev/shm; fi
PATH=$PATH:/usr/sbin
bin=$(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V | tail -1)
if [ ! -x "$bin/initdb" ] || ! command -v pgbouncer > /dev/null; then
    echo "PostgreSQL or PgBouncer is missing: install Debian's packages postgresql and pgbouncer"
    echo "end 1"
    exit 1
fi
folder=
bouncers=

# However this ends, except by SIGKILL: Ctrl-C in a terminal reaches this process before its input ends.
end() {
    for process in $bouncers; do kill -INT "$process" 2>/dev/null; done
    for process in "$folder"/*.process; do
        [ -e "$process" ] && name=${process##*/} && stop "${name%.process}" immediate
    done
    rm -rf "$folder"
    [ -z "${DISK-}" ] || rm -rf "${DISK:?}"/*
}
trap end EXIT
trap 'exit 1' HUP INT TERM
folder=$(mktemp -d "$base/postgres-fixture-XXXXXX") || exit
disk=${DISK:-$folder}
chmod 755 "$folder"

# init NAME PORT: makes the data of a server.
init() {
    printf '%s' "$PASSWORD" > "$folder/password"
    "$bin/initdb" --pgdata="$disk/$1" --username=postgres --pwfile="$folder/password" --auth-local=trust --auth-host=scram-sha-256 \
        --encoding=UTF8 --locale=C --wal-segsize=1 --no-sync || return
    # Small: a server of a test has few connections, and may live on a small disk.
    cat >> "$disk/$1/postgresql.conf" << END
unix_socket_directories = '$folder'
shared_buffers = 32MB
max_connections = 100
min_wal_size = 2MB
max_wal_size = 16MB
wal_keep_size = 4MB
wal_level = replica
hot_standby = on
dynamic_shared_memory_type = mmap
log_line_prefix = '%m [%p] %a '
# A standby that a test has ended is noticed soon.
wal_sender_timeout = 2s
wal_receiver_timeout = 2s
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 200ms
END
    if [ -n "$SERVER_CERTIFICATE" ]; then
        (umask 077 && printf '%s\n' "$SERVER_CERTIFICATE" > "$disk/$1/server.crt" && printf '%s\n' "$SERVER_KEY" > "$disk/$1/server.key")
        echo "ssl = on" >> "$disk/$1/postgresql.conf"
    fi
    own_port "$1" "$2"
    start "$1" || return
    "$bin/psql" -X -h "$folder" -p "$2" -U postgres -q -c "CREATE ROLE tollgate LOGIN PASSWORD '$PASSWORD'"
}

own_port() {
    echo "port = $2" >> "$disk/$1/postgresql.conf"
    echo "$2" > "$folder/$1.port"
}

# start NAME: returns when it accepts connections.
start() {
    "$bin/postgres" -D "$disk/$1" >> "$folder/$1.log" 2>&1 < /dev/null &
    echo $! > "$folder/$1.process"
    until "$bin/pg_isready" --quiet --host="$folder" --port="$(cat "$folder/$1.port")"; do
        if ! kill -0 "$(cat "$folder/$1.process")" 2>/dev/null; then
            rm "$folder/$1.process"
            log "$1"
            return 1
        fi
        sleep 0.02
    done
}

# stop NAME fast|immediate
stop() {
    case "$2" in fast) signal=INT ;; *) signal=QUIT ;; esac
    process=$(cat "$folder/$1.process") && rm "$folder/$1.process" || return
    kill -"$signal" "$process"
    # Its code tells only how it ended.
    wait "$process" || :
}

# Ends the server and all its processes by SIGKILL.
crash() {
    all=$(processes "$1") && rm "$folder/$1.process" || return
    # shellcheck disable=SC2086
    kill -KILL $all 2>/dev/null
    for process in $all; do gone "$process"; done
    # A server that starts again does this itself; one that never does would leave it in the kernel.
    ipcrm --shmem-id "$(sed -n '7s/.* //p' "$disk/$1/postmaster.pid")"
}

# running NAME: succeeds if the server has not ended by itself, as it does on a full disk.
running() {
    [ -e "$folder/$1.process" ] || return
    kill -0 "$(cat "$folder/$1.process")" 2>/dev/null && return
    rm "$folder/$1.process"
    return 1
}

# pause NAME, resume NAME: the server's processes stop, and go on.
pause() {
    # shellcheck disable=SC2046
    kill -STOP $(processes "$1")
}

resume() {
    # shellcheck disable=SC2046
    kill -CONT $(processes "$1")
}

processes() {
    process=$(cat "$folder/$1.process") && echo "$process" && cat "/proc/$process/task/$process/children"
}

# Waits until a process that is no child of this one has ended. Its new parent may leave it as a zombie for a while.
gone() {
    while state=$(cat "/proc/$1/stat" 2>/dev/null); do
        case "$state" in *") Z "*) return ;; esac
        sleep 0.02
    done
}

# promote NAME: a standby becomes a primary.
promote() {
    "$bin/pg_ctl" --pgdata="$disk/$1" --wait --silent promote
}

# standby NAME PORT PRIMARY_PORT: a streaming standby of a running server.
standby() {
    "$bin/pg_basebackup" --pgdata="$disk/$1" --host="$folder" --port="$3" --username=postgres --checkpoint=fast --wal-method=stream \
        --write-recovery-conf --no-sync || return
    own_port "$1" "$2"
    start "$1"
}

# forget NAME: removes the data of a server that was ended.
forget() {
    rm -rf "${disk:?}/$1"
}

# fill: leaves no room on the disk of the data. free: gives it back.
fill() {
    cat /dev/zero > "$disk/filler" 2>/dev/null
    [ -n "${DISK-}" ]
}

free() {
    rm -f "$disk/filler"
}

# bouncer PORT SERVER_PORT: PgBouncer before a server, in transaction mode, when it answers. Prints its process.
bouncer() {
    printf '"tollgate" "%s"\n' "$PASSWORD" > "$folder/bouncer-users"
    cat > "$folder/bouncer-$1.ini" << END
[databases]
* = host=$folder port=$2
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = scram-sha-256
auth_file = $folder/bouncer-users
pool_mode = transaction
default_pool_size = 4
max_client_conn = 200
server_login_retry = 1
END
    pgbouncer --quiet "$folder/bouncer-$1.ini" > "$folder/bouncer-$1.log" 2>&1 < /dev/null &
    process=$!
    before=$bouncers
    bouncers="$bouncers $process"
    # Something else may answer at its port: PgBouncer ends then, without a word.
    until "$bin/pg_isready" --quiet --host=127.0.0.1 --port="$1"; do
        kill -0 "$process" 2>/dev/null && continue
        cat "$folder/bouncer-$1.log"
        echo "could not bind, or ended for another reason"
        bouncers=$before
        return 1
    done
    echo "$process"
}

# bouncer_end PROCESS
bouncer_end() {
    kill -INT "$1" && wait "$1"
    left=
    for process in $bouncers; do [ "$process" = "$1" ] || left="$left $process"; done
    bouncers=$left
}

# log NAME: the end of a server's log.
log() {
    tail -50 "$folder/$1.log"
}

echo "$folder"
echo "$bin"
echo "end 0"
while read -r line; do
    # Not in a subshell: `bouncer` keeps what it started.
    # shellcheck disable=SC2086
    $line > "$folder/answer" 2>&1 < /dev/null
    code=$?
    cat "$folder/answer"
    echo "end $code"
done
