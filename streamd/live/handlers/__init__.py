"""Policy: who may do what, and who gets what.

settings      what the operator chose, as plain numbers
guests        what travels with a link from one session to another
door          a connection that has not yet said what it wants; the routes of HTTP
broadcast     one name: its publisher, its tracks, everyone watching, its beginning and end
fanout        one frame to everybody: units, announcements, heads
publish_rtmp  a publisher's messages become frames
watch_rtmp    viewers over RTMP: play, pause, sound or picture off, signs of life
watch_flv     viewers over HTTP and WebSocket
page          the page in which a browser plays a broadcast
"""
