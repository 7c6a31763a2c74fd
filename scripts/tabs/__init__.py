"""Browser tabs by the thousand, for load tests and benchmarks.

A tab here is one WebSocket that speaks just enough Engine.IO and Socket.IO (`tab`). A `crowd` is a process full of
them, and `crowds` are several such processes behind one handle, so that what is measured is the server and not the
client. Figures of the server's side are read from the operating system (`processes`) or from its /metrics.
"""
