# The recipes of this checkout. Each is one script of scripts/ or one command; `./just` lists them.

[private]
default:
    @{{ quote(just_executable()) }} --list --unsorted

# start a local cluster (a coordinator, two runners) and build this checkout in it; Ctrl-C stops everything
up:
    @scripts/up

# build the binaries for use, into target/release/
build:
    @scripts/build-tools
    cargo build --release --locked

# set up whatever is missing on this machine, and run all tests
test:
    @scripts/test

# format, lints, shell scripts
check:
    @scripts/check

# make sure that the engine has the images that builds and tests start from
images:
    @scripts/images
