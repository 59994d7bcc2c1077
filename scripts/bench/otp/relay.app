{application, relay, [
    {description, "Sessions to be upgraded"},
    {vsn, "VERSION"},
    {modules, [relay_app, relay_door, relay_session]},
    {registered, [relay_sup, relay_sessions]},
    {applications, [kernel, stdlib, sasl]},
    {mod, {relay_app, []}},
    {env, [{port, 0}]}
]}.
