"""The one way a stage starts: absl flags in, one line and exit code 2 for a user's mistake."""

import contextlib
import difflib
import errno
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator

from absl import app, flags, logging

# What the system refuses and the user can mend; any other OSError is a fault of ours.
_USERS_ERRNO = (errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_USERS_ERRNO += (errno.EISDIR, errno.ENAMETOOLONG)
# What the clients of buckets raise when there is no key, no right, no bucket or no network.
_BUCKETS = ("botocore", "aiobotocore", "gcsfs", "google", "aiohttp")


class UserError(Exception):
    """A mistake that the user can mend; its text is the one line they see: what, where, number, cure."""


def run(stage: Callable[[flags.FlagValues], int | None]) -> None:
    """Parses the command line, runs `stage` with its flags and exits the process.

    Exit code 0: the job was done (or help was asked for); 2: a user's mistake, told in one line on stderr;
    anything else: what `stage` returned, or 1 with a traceback for a fault of ours.

    Args:
      stage: takes the parsed flags, returns the exit code (None is 0).
    """

    def parse(argv: list[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if len(rest) > 1:
                raise UserError(f"{rest[1]!r} is not a flag; every input is given as --flag=value (see --help)")
            return rest
        except (flags.Error, UserError) as error:
            _exit(error)
        except SystemExit:  # how absl ends --help, with 1; the job was to help, and it was done
            raise SystemExit(0) from None
        except Exception as error:  # config_flags runs the config file: what that raises is the user's too
            _exit(UserError(_config_fault(error)))

    def main(_: list[str]) -> int | None:
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax tells each file it writes
        try:
            return stage(flags.FLAGS)
        except UserError as error:
            _exit(error)
        except Exception as error:
            if type(error).__module__.partition(".")[0] in _BUCKETS:  # each client has a dozen kinds of its own
                _exit(UserError(f"a bucket could not be used: {one_line(error)[:200]}; mend that and run again"))
            if not isinstance(error, OSError) or error.errno not in _USERS_ERRNO:
                raise
            _exit(UserError(f"{error.filename or one_line(error)}: {error.strerror}; mend that and run again"))

    app.run(main, flags_parser=parse)


def require(values: flags.FlagValues, *names: str) -> None:
    """Raises UserError naming the flags among `names` that were not given."""
    missing = [f"--{name}" for name in names if not values[name].value]
    if missing:
        raise UserError(f"{', '.join(missing)} is missing; --help explains each flag")


@contextlib.contextmanager
def extra(name: str, *later: str) -> Iterator[None]:
    """Around a stage's imports: where a package of this extra is missing, one line that names it and exit code 2.

    Args:
      name: the extra.
      later: packages of it that are imported only where they are used, too late to find out.
    """
    try:
        yield
        missing = next((package for package in later if importlib.util.find_spec(package) is None), "")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("univar_jax"):
            raise
        missing = (error.name or "").partition(".")[0]
    if missing:
        _exit(UserError(f"this stage needs the package {missing}; pip install 'univar_jax[{name}]'"))


def one_line(error: Exception) -> str:
    """The first line of an error's text: other people's run over several, ours are one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def near(word: str, names: Iterable[str]) -> str:
    """A cure: the names that are spelt nearly so, else the first ones there are."""
    names = sorted(set(names))
    found = difflib.get_close_matches(word, names, n=3, cutoff=0.5)
    if found := found or [name for name in names if name.lower() == word.lower()]:
        return f"did you mean {', '.join(found)}?"
    return f"there are {', '.join(names[:8])}{' …' if len(names) > 8 else ''}" if names else "there are none"


def _exit(error: Exception) -> None:
    print("error: " + " ".join(str(error).split()), file=sys.stderr, flush=True)
    raise SystemExit(2)


def _config_fault(error: Exception) -> str:
    """What is wrong with --config or a --config.KEY, where it can be told with the config file's line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    if isinstance(error, AttributeError | KeyError) and "ml_collections" in last.filename:
        if "get_config" in str(error):
            return "--config: the file has no get_config(); define one that returns a ConfigDict"
        # ml_collections nests the key's repr and its 'Did you mean' in one another; keep the words.
        words = re.sub(r"['\\]", "", str(error).replace("\\n", "; ").replace("\n", "; "))
        return f"unknown config key: {words.strip(chr(34))}"
    where = "" if isinstance(error, SyntaxError) else f" at {last.filename}:{last.lineno}"
    return f"--config: {type(error).__name__}{where}: {error}"
