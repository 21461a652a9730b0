#compdef flyball
# zsh completion of flyball. Save it as _flyball in a folder of $fpath, or put into ~/.zshrc, after compinit:
#   source <(flyball completion zsh)

_flyball() {
	local line
	local -a candidates
	for line in "${(@f)$("${(Q)words[1]}" complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)}"; do
		case $line in
		'') ;;
		:files)
			[[ $PREFIX == -*=* ]] && compset -P 1 '*='
			_files
			return
			;;
		:directories)
			[[ $PREFIX == -*=* ]] && compset -P 1 '*='
			_files -/
			return
			;;
		*$'\t'*) candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}") ;;
		*) candidates+=("${line//:/\\:}") ;;
		esac
	done
	_describe flyball candidates
}

if [[ ${funcstack[1]} == _flyball ]]; then
	_flyball "$@"
else
	compdef _flyball flyball
fi
