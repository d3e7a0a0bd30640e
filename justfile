# The recipes of this checkout; `./just` lists them. `exec`, so that a signal reaches the script and not a shell before it.

[private]
default:
    @{{ quote(just_executable()) }} --list --unsorted

# start a local cluster (a coordinator, two runners) and build this checkout in it; Ctrl-C stops everything
up:
    @exec scripts/up

# build the binaries for use, into target/release/
build:
    @scripts/build-tools
    @scripts/web --optional
    cargo build --release --locked -p caisson-coordinator -p caisson-runner

# set up whatever is missing on this machine, and run all tests
test:
    @exec scripts/test

# format, lints, shell scripts, what comes from outside
check:
    @exec scripts/check

# make sure that the engine has the images that builds and tests start from
images:
    @exec scripts/images

# plant each known bug in a copy of this checkout, and see that the tests catch it
[positional-arguments]
planted-bugs *bugs:
    @scripts/build-tools
    @exec scripts/planted-bugs "$@"

# run the coordinator in simulated worlds: `--seeds 2000`, or one again: `--seed 7 --trace`
[positional-arguments]
simulate *args:
    @scripts/build-tools
    @exec cargo run --quiet --package caisson-simulation --bin simulate -- "$@"

# look for bytes that break what takes bytes in: `--seconds 60`, or one target: `repository_url`
[positional-arguments]
fuzz *args:
    @exec scripts/fuzz "$@"
