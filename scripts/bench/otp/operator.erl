%% The operator at the node's terminal: says "ready", then carries out what comes on standard input, a word a line, and
%% says what release_handler answered and after how many ms. It is no part of the release.
%%
%%     unpack | install | permanent | back        the upgrade to release 2, made permanent; back to release 1
%%     sessions                                   how many session processes there are
-module(operator).

-export([start/0]).

start() ->
    spawn(fun() ->
        io:format("ready~n"),
        listen()
    end).

listen() ->
    case io:get_line("") of
        Line when is_list(Line) ->
            Began = erlang:monotonic_time(microsecond),
            Answer = obey(string:trim(Line)),
            Ms = (erlang:monotonic_time(microsecond) - Began) / 1000,
            io:format("answer ~.3f ~0p~n", [Ms, Answer]),
            listen();
        _End ->
            init:stop()
    end.

obey("unpack") -> release_handler:unpack_release("relay-2");
obey("install") -> release_handler:install_release("2");
obey("permanent") -> release_handler:make_permanent("2");
obey("back") -> release_handler:install_release("1");
obey("sessions") -> proplists:get_value(active, supervisor:count_children(relay_sessions)).
