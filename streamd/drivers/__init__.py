"""What cannot be plain data: HTTP connections, the service manager, watched directories.

    http     requests in, answers out; gives a connection up to the kernel when an answer is a stream
    systemd  readiness, status and watchdog messages
    watch    changed files in the patches directory
    assets/  what the player page loads: player.js, player.css, mpegts.js with its licence

Live code knows a thing of a driver by its link number only.
"""
