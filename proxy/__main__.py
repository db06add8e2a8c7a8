import gc

gc.disable()  # what is imported stays: looking for what does not takes a twentieth of the start
from proxy.cli import main  # noqa: E402

gc.enable()
main()
