%% The application `relay`: a door that takes connections, and a session process for each of them.
%%
%% What is to be upgraded is relay_session alone; this file and relay_door are the same in both versions, and the
%% appup says nothing of them. The supervisor's child specification names the callback module, by which the release
%% handler finds the processes that it has to suspend.
-module(relay_app).
-behaviour(application).
-behaviour(supervisor).

-export([start/2, stop/1, init/1]).

start(_Type, _Arguments) ->
    supervisor:start_link({local, relay_sup}, ?MODULE, top).

stop(_State) ->
    ok.

init(top) ->
    Sessions = #{
        id => relay_sessions,
        start => {supervisor, start_link, [{local, relay_sessions}, ?MODULE, sessions]},
        type => supervisor,
        modules => [?MODULE]
    },
    Door = #{id => relay_door, start => {relay_door, start_link, []}, modules => [relay_door]},
    {ok, {#{strategy => one_for_one, intensity => 10, period => 1}, [Sessions, Door]}};
init(sessions) ->
    Session = #{
        id => relay_session,
        start => {relay_session, start_link, []},
        restart => temporary, % a connection that is gone cannot be started again
        shutdown => 1000,
        modules => [relay_session]
    },
    {ok, {#{strategy => simple_one_for_one}, [Session]}}.
