from upstream_app.cli import main

main()
